# SPDX-License-Identifier: MIT
"""Which platforms can have memory plugged into a guest, and why the others cannot."""

from __future__ import annotations

from harness.base.spec import TargetName
from harness.base.status import NotApplicable

_NO_ACCEPT = (
    "Linux 6.12 and 7.3 have no acceptance for hot-added memory (arch_add_memory() in "
    "arch/x86/mm/init_64.c does not accept, and puts nothing into the table of unaccepted memory)"
)
_WHY_NOT = {
    TargetName.TDX: f"{_NO_ACCEPT}: a TD would die at the first touch of a plugged page",
    TargetName.SNP: f"{_NO_ACCEPT}: an SNP guest would die at the first touch of a plugged page",
}


def why_no_hotplug(target: TargetName) -> str:
    """Why guests of `target` cannot have memory plugged; "" where they can."""
    return _WHY_NOT.get(target, "")


def need_hotplug(target: TargetName) -> None:
    """Raises NotApplicable (SKIP) with the reason."""
    if why := why_no_hotplug(target):
        raise NotApplicable(
            f"no memory hotplug on {target.value}: {why}",
            hint="use --target=emulated, whose platform accepts hot-added memory",
        )
