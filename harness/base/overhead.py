# SPDX-License-Identifier: MIT
"""Memory and time that KASAN, lockdep and the like take of a guest; bounds are widened by it."""

import math
from dataclasses import dataclass


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
