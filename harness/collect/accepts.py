# SPDX-License-Identifier: MIT
"""Accept events of one guest, from the carried patch's trace event, to events.parquet."""

import abc
from collections.abc import Mapping
from pathlib import Path

from harness.collect import tracefs
from harness.guest.guest import Guest
from harness.record import events as event_file
from harness.record.events import EventsWriter, TraceFacts, convert_frames
from harness.record.frames import FileStream, parse_frames
from harness.record.histogram import HIST_FILE
from harness.record.ringbuffer import parse_format

RAW_FILE = "trace.raw"
"""The binary pages as they came; removed once events.parquet holds what is in them."""
_EVENT = f"{tracefs.TRACEFS}/events/{tracefs.ACCEPT_EVENT}"
_TRIGGERS = (
    "hist:keys=duration_ns.log2:vals=units,duration_ns:size=256",
    "hist:keys=wait_ns.log2:vals=units,wait_ns:size=256",
)
_MAX_TEXT = 4 << 20


class AcceptTrace(abc.ABC):
    """A source of accept events."""

    source: str

    def __init__(self, guest: Guest) -> None:
        self._guest = guest

    @abc.abstractmethod
    def begin(self, blocks: int, buffer_kib: int | None) -> None:
        """Make room for the events of `blocks` MAX_PAGE_ORDER blocks, and record from here on."""

    @abc.abstractmethod
    def pause(self) -> None:
        """Record no more, before the last reading of the counters."""

    def convert(self, raw: Path, out: Path, lost: Mapping[int, int]) -> TraceFacts:
        """Write the events among the pages in `raw` to `out`."""
        raise NotImplementedError

    def save(self, run_dir: Path) -> TraceFacts:
        """Write events.parquet. Raises PreconditionError where the trace makes no sense."""
        lost = tracefs.stop_tracing(self._guest)
        raw = run_dir / RAW_FILE
        tracefs.fetch_pages(self._guest, raw)
        facts = self.convert(raw, run_dir / event_file.FILE, lost)
        raw.unlink()
        return facts


class EventTrace(AcceptTrace):
    """The trace event, on since early boot if the command line asked for it."""

    source = "event"
    _lost_in_boot = 0

    def begin(self, blocks: int, buffer_kib: int | None) -> None:
        # What boot recorded stays in the buffer.
        lost = tracefs.make_room(self._guest, blocks, kib=buffer_kib, enable=tracefs.ACCEPT_EVENT)
        self._lost_in_boot = sum(lost.values())

    def pause(self) -> None:
        tracefs.switch_event(self._guest, False)

    def convert(self, raw: Path, out: Path, lost: Mapping[int, int]) -> TraceFacts:
        layout = parse_format(tracefs.event_format(self._guest))
        frames = parse_frames(FileStream(raw))
        with EventsWriter(out) as writer:
            dropped = convert_frames(
                frames, layout, lambda some: tracefs.symbols(self._guest, some), writer
            )
            facts = TraceFacts(self.source, lost, dropped, lost_in_boot=self._lost_in_boot)
            writer.finish(facts)
        return facts


class HistTrace(AcceptTrace):
    """Only the distribution, in hist.txt, by hist triggers (Documentation/trace/histogram.rst,
    6.12): no event leaves the guest. What they cannot count they say they dropped."""

    source = "hist"

    def begin(self, blocks: int, buffer_kib: int | None) -> None:
        tracefs.switch_event(self._guest, False)
        for trigger in _TRIGGERS:
            self._guest.run(f"echo '{trigger}' >> {_EVENT}/trigger")

    def pause(self) -> None:
        for trigger in _TRIGGERS:
            self._guest.run(f"echo '{trigger}:pause' >> {_EVENT}/trigger")

    def save(self, run_dir: Path) -> TraceFacts:
        (run_dir / HIST_FILE).write_bytes(self._guest.get(f"{_EVENT}/hist", _MAX_TEXT))
        return TraceFacts(self.source, {})
