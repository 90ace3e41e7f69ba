# SPDX-License-Identifier: MIT
"""What is to be collected in a run."""

import enum
from dataclasses import dataclass

from harness.base.spec import Clock
from harness.base.status import UsageError

MAX_HZ = 1000
_HZ = 100
MAX_BUFFER_KIB = 1 << 20


class TraceMode(enum.StrEnum):
    """Where accept events come from."""

    AUTO = "auto"
    """The carried patch's trace event where the kernel has it, else dynamic probes."""
    EVENT = "event"
    PROBES = "probes"
    BOTH = "both"
    """Both at once, to compare them."""
    HIST = "hist"
    """Only the distribution, in the kernel's own histograms."""
    OFF = "off"


@dataclass(frozen=True)
class Collect:
    """Collectors and their settings."""

    hz: int | None = None
    """Samples of the counters per second; 0: none. None: 100, and none under the icount clock,
    where they would be in what is counted (docs/comparisons.md)."""
    trace: TraceMode = TraceMode.AUTO
    buffer_kib: int | None = None
    """Trace buffer per CPU; None: enough for all that is unaccepted."""

    def __post_init__(self) -> None:
        if self.hz is not None and not 0 <= self.hz <= MAX_HZ:
            raise UsageError(f"{self.hz} samples per second: must be 0 (none) to {MAX_HZ}")
        if self.buffer_kib is not None and not 4 <= self.buffer_kib <= MAX_BUFFER_KIB:
            raise UsageError(f"a trace buffer of {self.buffer_kib} KiB: must be 4 to 1048576")

    def rate(self, clock: Clock) -> int:
        """Samples per second of a guest with this clock."""
        if self.hz is not None:
            return self.hz
        return 0 if clock is Clock.ICOUNT else _HZ
