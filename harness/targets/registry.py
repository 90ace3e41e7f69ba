# SPDX-License-Identifier: MIT
"""The targets by name."""

from collections.abc import Iterable, Mapping

from harness.base.spec import TargetName
from harness.targets.base import Target
from harness.targets.emulated import EmulatedTarget
from harness.targets.snp import SnpTarget
from harness.targets.tdx import TdxTarget

TARGETS: Mapping[TargetName, Target] = {
    target.name: target for target in (SnpTarget(), TdxTarget(), EmulatedTarget())
}
"""In the order in which "auto" prefers them; no host has both SNP and TDX."""


def target_for(name: TargetName) -> Target:
    """The target called `name`. Whether this host can run it: harness.targets.ready."""
    return TARGETS[name]


def kernel_of(names: Iterable[TargetName]) -> tuple[TargetName, tuple[str, ...]]:
    """For one kernel that serves guests of all these targets: whose it is, and the fragments that
    the others need besides."""
    # "emulated" comes first: it cannot do without the carried patches.
    first, *others = (target_for(name) for name in sorted({*names}) or [TargetName.EMULATED])
    wanted = dict.fromkeys(fragment for other in others for fragment in other.fragments)
    return first.name, tuple(name for name in wanted if name not in first.fragments)
