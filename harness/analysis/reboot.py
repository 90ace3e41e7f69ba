# SPDX-License-Identifier: MIT
"""What a guest that was rebooted has to have again: all of its memory, unaccepted as at first."""

from collections.abc import Mapping, Sequence
from typing import Any

from harness.analysis.kexec import SIZE_MARGIN_KIB, reported_cycles
from harness.base.reader import FileType
from harness.base.status import Status
from harness.base.units import KIB, MIB, PAGE_SIZE, format_size
from harness.record.check import Check, check

_SIGNAL = "reboot"
_MARGIN_PAGES = 32 * MIB // PAGE_SIZE
"""What a boot accepts before its init may differ: where the kernel lies is drawn anew."""


class RebootCycle(FileType, frozen=True):
    """One reboot, with what the kernels before and after it counted. Pages of 4 KiB."""

    took_ns: int
    """From the order to the first command over SSH afterwards, host clock."""
    mem_total_kib: int
    next_mem_total_kib: int
    unaccepted_pages: int
    """nr_unaccepted before memory was touched and the guest rebooted; -1: not counted."""
    next_at_init_pages: int


def reboot_cycles(reports: Sequence[Mapping[str, Any]]) -> tuple[RebootCycle, ...]:
    """All cycles that workload reports tell of. Raises PreconditionError."""
    return reported_cycles(reports, "reboot", tuple[RebootCycle, ...])


def reboot_checks(cycles: Sequence[RebootCycle]) -> list[Check]:
    """Each boot has the memory of the one before, and nothing of it is accepted already."""
    if not cycles:
        return []
    most = max(abs(cycle.next_mem_total_kib - cycle.mem_total_kib) for cycle in cycles)
    sizes = [cycles[0].mem_total_kib, *(cycle.next_mem_total_kib for cycle in cycles)]
    found = [
        check(
            "reboot: every boot has all of the memory",
            min(sizes) > 0 and most <= SIZE_MARGIN_KIB,
            f"MemTotal {' → '.join(map(str, sizes))} KiB, "
            f"allowed ±{format_size(SIZE_MARGIN_KIB * KIB)}",
            _SIGNAL,
        )
    ]
    name = "reboot: memory is unaccepted again"
    detail = "nr_unaccepted before → at the next init: " + ", ".join(
        f"{cycle.unaccepted_pages} → {cycle.next_at_init_pages}" for cycle in cycles
    )
    if any(min(cycle.unaccepted_pages, cycle.next_at_init_pages) < 0 for cycle in cycles):
        return [*found, Check(name, Status.ERROR, f"a kernel does not count: {detail}", _SIGNAL)]
    again = all(
        cycle.next_at_init_pages >= cycle.unaccepted_pages - _MARGIN_PAGES for cycle in cycles
    )
    return [*found, check(name, again, detail, _SIGNAL)]
