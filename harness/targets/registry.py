# SPDX-License-Identifier: MIT
"""The targets by name."""

from __future__ import annotations

from harness.base.spec import TargetName
from harness.targets.base import Target
from harness.targets.emulated import EmulatedTarget
from harness.targets.snp import SnpTarget
from harness.targets.tdx import TdxTarget


def target_for(name: TargetName) -> Target:
    """The target called `name`. Whether this host can run it: harness.host.ready."""
    match name:
        case TargetName.EMULATED:
            return EmulatedTarget()
        case TargetName.SNP:
            return SnpTarget()
        case TargetName.TDX:
            return TdxTarget()
