# SPDX-License-Identifier: MIT
"""Whether this host has the memory for a guest: said before QEMU says it worse."""

from __future__ import annotations

import resource
from pathlib import Path

import psutil

from harness.base.spec import GuestSpec
from harness.base.status import HostError
from harness.base.units import GIB, MIB, format_size

_MEMMAP_SHARE = 1 / 64
"""struct page: 64 bytes per 4 KiB page (include/linux/mm_types.h), touched early in boot."""
_FIXED = 512 * MIB
"""QEMU itself, TCG's translation cache, kernel, initramfs and early over-acceptance."""


def needed_memory(spec: GuestSpec) -> int:
    """Bytes of host memory a lazy guest needs to boot; what it never touches costs nothing."""
    return int(spec.memory * _MEMMAP_SHARE) + _FIXED


def check_room(spec: GuestSpec, available: int | None = None) -> None:
    """Raise HostError where the guest cannot be mapped, or could not boot in what is free."""
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit != resource.RLIM_INFINITY and spec.memory + GIB > limit:
        raise HostError(
            f"a guest of {format_size(spec.memory)} cannot be mapped: this process may map only "
            f"{format_size(limit)} (RLIMIT_AS)",
            hint="raise it (ulimit -v unlimited) or choose a smaller --memory",
        )
    overcommit = Path("/proc/sys/vm/overcommit_memory").read_text().strip()
    free = psutil.virtual_memory().available if available is None else available
    if overcommit == "2" and spec.memory > free:
        raise HostError(
            f"a guest of {format_size(spec.memory)} cannot be mapped: vm.overcommit_memory is 2 "
            f"and {format_size(free)} are available",
            hint="choose a smaller --memory, or set vm.overcommit_memory=0",
        )
    if needed_memory(spec) > free:
        raise HostError(
            f"a guest of {format_size(spec.memory)} needs {format_size(needed_memory(spec))} of "
            f"host memory to boot, and {format_size(free)} are available",
            hint="choose a smaller --memory or free some memory",
        )
