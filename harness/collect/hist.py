# SPDX-License-Identifier: MIT
"""Only the distribution of accepts, from the kernel's own histograms: no event leaves the guest.

hist triggers (Documentation/trace/histogram.rst, 6.12) on the carried patch's event. What they
cannot count they say they dropped.
"""

from __future__ import annotations

from pathlib import Path

from harness.collect import tracefs
from harness.guest.guest import Guest
from harness.record.events import TraceFacts
from harness.record.hist import FILE

_EVENT = f"{tracefs.TRACEFS}/events/{tracefs.ACCEPT_EVENT}"
_TRIGGERS = (
    "hist:keys=duration_ns.log2:vals=units,duration_ns:size=256",
    "hist:keys=wait_ns.log2:vals=units,wait_ns:size=256",
)
_MAX_TEXT = 4 << 20


class HistTrace:
    """See AcceptTrace; writes hist.txt instead of events.parquet."""

    source = "hist"

    def __init__(self, guest: Guest) -> None:
        self._guest = guest

    def begin(self, blocks: int, buffer_kib: int | None) -> None:
        """See AcceptTrace. Records no events, so it needs no room."""
        tracefs.switch_event(self._guest, False)
        for trigger in _TRIGGERS:
            self._guest.run(f"echo '{trigger}' >> {_EVENT}/trigger")

    def pause(self) -> None:
        """See AcceptTrace."""
        for trigger in _TRIGGERS:
            self._guest.run(f"echo '{trigger}:pause' >> {_EVENT}/trigger")

    def save(self, run_dir: Path) -> TraceFacts:
        """See AcceptTrace."""
        (run_dir / FILE).write_bytes(self._guest.get(f"{_EVENT}/hist", _MAX_TEXT))
        return TraceFacts(self.source, {})
