# SPDX-License-Identifier: MIT
"""Accept events of one guest, from wherever its kernel offers them, to events.parquet."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from harness.collect import tracefs
from harness.guest.guest import Guest
from harness.record import events as event_file
from harness.record.events import EventsWriter, TraceFacts, convert_frames
from harness.record.frames import FileStream, parse_frames
from harness.record.ringbuffer import parse_format

RAW_FILE = "trace.raw"
"""The binary pages as they came; removed once events.parquet holds what is in them."""


class AcceptTrace(Protocol):
    """A source of accept events."""

    source: str

    def begin(self, blocks: int, buffer_kib: int | None) -> None:
        """Make room for the events of `blocks` MAX_PAGE_ORDER blocks, and record from here on."""

    def pause(self) -> None:
        """Record no more, before the last reading of the counters."""

    def save(self, run_dir: Path) -> TraceFacts:
        """Write events.parquet. Raises PreconditionError where the trace makes no sense."""


class EventTrace:
    """The carried patch's trace event, on since early boot if the command line asked for it."""

    source = "event"

    def __init__(self, guest: Guest) -> None:
        self._guest = guest

    def begin(self, blocks: int, buffer_kib: int | None) -> None:
        """See AcceptTrace. What boot recorded stays in the buffer."""
        tracefs.make_room(self._guest, blocks, kib=buffer_kib, enable=tracefs.ACCEPT_EVENT)

    def pause(self) -> None:
        """See AcceptTrace."""
        tracefs.switch_event(self._guest, False)

    def save(self, run_dir: Path) -> TraceFacts:
        """See AcceptTrace."""
        lost = tracefs.stop_tracing(self._guest)
        raw = run_dir / RAW_FILE
        tracefs.fetch_pages(self._guest, raw)
        facts = self.convert(raw, run_dir / event_file.FILE, lost)
        raw.unlink()
        return facts

    def convert(self, raw: Path, out: Path, lost: Mapping[int, int]) -> TraceFacts:
        """Write the event's records among the pages in `raw` to `out`."""
        layout = parse_format(tracefs.event_format(self._guest))
        frames = parse_frames(FileStream(raw))
        with EventsWriter(out) as writer:
            dropped = convert_frames(
                frames, layout, lambda some: tracefs.symbols(self._guest, some), writer
            )
            facts = TraceFacts(self.source, lost, dropped)
            writer.finish(facts)
        return facts
