# SPDX-License-Identifier: MIT
"""A run as a Perfetto trace. The time axis is the guest's CLOCK_MONOTONIC, moved so that QEMU's
spawn, which comes before it, is not negative."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perfetto.protos.perfetto.trace.perfetto_trace_pb2 import (
    CounterDescriptor,
    TracePacket,
    TrackEvent,
)
from perfetto.trace_builder.proto_builder import StreamingTraceProtoBuilder

from harness.analysis.analyse import Analysis, analyse
from harness.base.text import inert
from harness.base.units import PAGE_SIZE
from harness.record.boot import STAGES
from harness.record.events import FILE, Events
from harness.record.samples import read_samples
from harness.record.view import RunView

_SEQUENCE = 1
_GUEST = 1
"""Track of the guest as a process; further ones are counted from here."""
_COUNTERS = {"vmstat.nr_unaccepted": "unaccepted memory", "vmstat.nr_free_pages": "free memory"}


@dataclass
class _Writer:
    """Tracks and events in one packet sequence."""

    builder: StreamingTraceProtoBuilder
    shift_ns: int
    next_uuid: int = _GUEST + 1
    first: bool = True

    def packet(self, time_ns: int | None = None) -> TracePacket:
        packet = self.builder.create_packet()
        packet.trusted_packet_sequence_id = _SEQUENCE
        if self.first:
            packet.sequence_flags = TracePacket.SEQ_INCREMENTAL_STATE_CLEARED
            self.first = False
        if time_ns is not None:
            packet.timestamp = max(time_ns + self.shift_ns, 0)
        return packet

    def track(self, name: str, parent: int | None = _GUEST, **fields: Any) -> int:
        """Describe a track; its number."""
        packet = self.packet()
        descriptor = packet.track_descriptor
        descriptor.uuid = uuid = self.next_uuid
        self.next_uuid += 1
        descriptor.name = inert(name)
        if parent is not None:
            descriptor.parent_uuid = parent
        for field, values in fields.items():
            part = getattr(descriptor, field)
            part.SetInParent()
            for key, value in values.items():
                setattr(part, key, value)
        self.builder.write_packet(packet)
        return uuid

    def begin(self, track: int, time_ns: int, kind: int) -> TracePacket:
        packet = self.packet(time_ns)
        packet.track_event.type, packet.track_event.track_uuid = kind, track
        return packet

    def event(
        self, track: int, time_ns: int, kind: int, name: str = "", **facts: int | str
    ) -> None:
        packet = self.begin(track, time_ns, kind)
        event = packet.track_event
        if name:
            event.name = name
        for key, value in facts.items():
            note = event.debug_annotations.add()
            note.name = key
            setattr(note, "int_value" if isinstance(value, int) else "string_value", value)
        self.builder.write_packet(packet)

    def slice(self, track: int, name: str, begin_ns: int, end_ns: int, **facts: int | str) -> None:
        """Something that took from `begin_ns` to `end_ns`."""
        self.event(track, begin_ns, TrackEvent.TYPE_SLICE_BEGIN, name, **facts)
        self.event(track, end_ns, TrackEvent.TYPE_SLICE_END)


def write_perfetto(view: RunView, path: Path) -> None:
    """Raises PreconditionError where the run's files cannot be believed or it did not end."""
    found = analyse(view.path)
    stages = _stages(view, found)
    shift_ns = max(0, -min((begin for _, begin, _ in stages), default=0))
    with path.open("wb") as file:
        _write(_Writer(StreamingTraceProtoBuilder(file), shift_ns), view, found, stages)


def _write(
    writer: _Writer, view: RunView, found: Analysis, stages: list[tuple[str, int, int]]
) -> None:
    packet = writer.packet()
    packet.track_descriptor.uuid = _GUEST
    packet.track_descriptor.process.pid = 1
    packet.track_descriptor.process.process_name = (
        f"guest {view.id}, {view.text('kernel', 'release')} "
        f"(CLOCK_MONOTONIC + {writer.shift_ns} ns, {view.status.value})"
    )
    writer.builder.write_packet(packet)
    if stages:
        track = writer.track("boot stages")
        for name, begin, end in stages:
            writer.slice(track, f"to {name}", begin, end)
    _counters(writer, view)
    _accepts(writer, view)
    _operations(writer, found)
    splats = [
        (s.guest_ns, inert(f"{s.kind}: {s.line}")) for s in found.splats if s.guest_ns is not None
    ]
    if splats:
        track = writer.track("console")
        for guest_ns, words in splats:
            writer.event(track, guest_ns, TrackEvent.TYPE_INSTANT, words)


def _stages(view: RunView, found: Analysis) -> list[tuple[str, int, int]]:
    """Name, begin and end of the way to each stage, guest ns."""
    stamps = view.get("boot", "stages") or {}
    clocks = found.clocks
    if clocks is None:
        return []
    reached = [(name, clocks.guest_ns(stamps[name])) for name in STAGES if name in stamps]
    return [
        (name, begin, end)
        for (_, begin), (name, end) in itertools.pairwise(reached)
        if end >= begin
    ]


def _counters(writer: _Writer, view: RunView) -> None:
    samples = read_samples(view.path)
    if samples is None:
        return
    stamps = samples.column("monotonic_ns")
    for column, name in _COUNTERS.items():
        if column in samples.names:
            track = writer.track(name, counter={"unit": CounterDescriptor.UNIT_SIZE_BYTES})
            for time_ns, pages in zip(stamps, samples.column(column), strict=True):
                packet = writer.begin(track, int(time_ns), TrackEvent.TYPE_COUNTER)
                packet.track_event.counter_value = int(pages) * PAGE_SIZE
                writer.builder.write_packet(packet)


def _accepts(writer: _Writer, view: RunView) -> None:
    tracks: dict[int, int] = {}
    ended: dict[int, int] = {}
    for row in _rows(view):
        cpu, time_ns = row["cpu"], row["time_ns"]
        if cpu not in tracks:
            tracks[cpu] = writer.track(f"CPU {cpu} acceptance")
        # Stamps are coarse until the clock is calibrated: slices must not cross all the same.
        begin = max(time_ns - row["duration_ns"], ended.get(cpu, 0))
        waited = max(begin - row["wait_ns"], ended.get(cpu, 0))
        if row["wait_ns"] and waited < begin:
            writer.slice(tracks[cpu], "wait", waited, begin)
        ended[cpu] = max(time_ns, begin)
        facts = {"units": row["units"], "pid": row["pid"], "caller": inert(row["caller"] or "")}
        writer.slice(tracks[cpu], "accept", begin, ended[cpu], **facts)


def _rows(view: RunView) -> Iterator[dict[str, Any]]:
    if not (view.path / FILE).exists():
        return
    columns = ("cpu", "time_ns", "duration_ns", "wait_ns", "units", "pid", "caller")
    for batch in Events(view.path / FILE).record_batches(*columns):
        for begin in range(0, len(batch), 1 << 14):
            yield from batch.slice(begin, 1 << 14).to_pylist()


def _operations(writer: _Writer, found: Analysis) -> None:
    """The slowest operations of each worker; the fast ones are not recorded one by one."""
    if found.operations is None:
        return
    for worker in found.operations.workers:
        thread = {"pid": 1, "tid": worker.tid, "thread_name": f"worker {worker.tid}"}
        track = writer.track(f"worker {worker.tid}", None, thread=thread)
        ended = 0
        for start, took in worker.slowest:
            begin = max(int(start), ended)
            ended = max(int(start) + int(took), begin)
            writer.slice(track, "slow operation", begin, ended)
