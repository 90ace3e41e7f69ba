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
    time_factor: float = 1.0
    """Deadlines are multiplied by this."""

    def gross(self, memory: int) -> int:
        """Bytes that a guest needs for `memory` of them to be left, to the MiB."""
        if not self.memory_share:
            return memory
        return math.ceil(memory / (1 - self.memory_share) / MIB) * MIB

    def taken(self, memory: int) -> int:
        """What the checks take of `memory`, in its unit."""
        return round(memory * self.memory_share)


_BY_SYMBOL = {
    # A byte of shadow for eight (mm/kasan/, KASAN_SHADOW_SCALE_SHIFT). With the fragment `debug` a
    # boot took 6 times and a first touch 13 times as long as without (6.12 under TCG); deadlines
    # leave room for more than half of that by themselves.
    "KASAN_GENERIC": Overhead(memory_share=1 / 8, time_factor=4.0),
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
        max([1.0, *(cost.time_factor for cost in found)]),
    )
