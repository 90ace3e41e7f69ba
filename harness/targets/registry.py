# SPDX-License-Identifier: MIT
"""The targets by name."""

from __future__ import annotations

from collections.abc import Mapping

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
