# SPDX-License-Identifier: MIT
"""Which confidential platforms a QEMU binary can emulate under TCG."""

from __future__ import annotations

import functools
from pathlib import Path

from harness.qemu.binary import query

PLATFORMS = {"tdx": "tdx-tcg-guest", "snp": "snp-tcg-guest"}
"""Target -> the object type that is its platform."""


@functools.cache
def emulated_platforms(binary: Path) -> frozenset[str]:
    """The targets whose platform `binary` has. Raises HostError if it cannot be asked."""
    offered = query(binary, "-object", "help").split()
    return frozenset(target for target, kind in PLATFORMS.items() if kind in offered)
