# SPDX-License-Identifier: MIT
"""What a kernel's own checks cost its guests: memory and time that no bound may hold against it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.units import MIB

if TYPE_CHECKING:
    from harness.kernel.build import Kernel


@dataclass(frozen=True)
class Overhead:
    """Of one kernel, compared with one that checks nothing."""

    memory_share: float = 0.0
    """Part of the guest's memory that is taken at boot."""
    memory_bytes: int = 0
    """What is taken of every guest, whatever its size."""
    time_factor: float = 1.0
    """Deadlines are multiplied by this."""

    def gross(self, memory: int) -> int:
        """Bytes that a guest needs for `memory` of them to be left by the checks, rounded up."""
        if not self.memory_share and not self.memory_bytes:
            return memory
        return math.ceil((memory + self.memory_bytes) / (1 - self.memory_share))

    def taken(self, memory: int) -> int:
        """Bytes that the checks take of a guest with `memory`."""
        return round(memory * self.memory_share) + self.memory_bytes


_BY_SYMBOL = {
    # A byte of shadow for eight (mm/kasan/, KASAN_SHADOW_SCALE_SHIFT). Beside it boots of 878M to
    # 3000M with the fragment `debug` took 60 to 150 MiB more than without: the image, and redzones.
    # They lasted 5 times as long, a first touch 13 times (6.12 under TCG); deadlines leave room for
    # more than half of that by themselves.
    "KASAN_GENERIC": Overhead(memory_share=1 / 8, memory_bytes=160 * MIB, time_factor=4.0),
    "PROVE_LOCKING": Overhead(time_factor=2.0),
    "DEBUG_PAGEALLOC_ENABLE_DEFAULT": Overhead(time_factor=2.0),
}


def overhead(kernel: Kernel) -> Overhead:
    """By the kernel's configuration; none where that is not known.

    Shares of memory add up; of the factors the largest counts.
    """
    found = [cost for symbol, cost in _BY_SYMBOL.items() if kernel.has(symbol)]
    return Overhead(
        sum(cost.memory_share for cost in found),
        sum(cost.memory_bytes for cost in found),
        max([1.0, *(cost.time_factor for cost in found)]),
    )
