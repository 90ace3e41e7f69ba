# SPDX-License-Identifier: MIT
"""What the checks that a kernel is configured with take of its guests."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.base.overhead import Overhead
from harness.base.units import MIB

if TYPE_CHECKING:
    from harness.kernel.kernel import Kernel


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
