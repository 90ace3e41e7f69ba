# SPDX-License-Identifier: MIT
"""Probe hits of all CPUs to accept events, millions of them, a window of time after the other: what
is open at its end is carried on. A task whose hits follow each other as they should is paired with
numpy; one that is interrupted within a call, or lacks hits, hit by hit (probes.pair)."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields

import numpy as np

from harness.analysis.probes import (
    CALL,
    PLATFORM_CALL,
    PLATFORM_RETURN,
    RETURN,
    Hit,
    ProbedAccept,
    pair,
)
from harness.base.status import PreconditionError
from harness.base.units import UNIT_SIZE
from harness.record.columns import Array
from harness.record.events import EventsWriter, named
from harness.record.frames import Frames
from harness.record.ringbuffer import Batch, EventFormat, read_mixed

_HIT_TYPES = ("u1", "<i8", "<i2", "<i4", "<u8", "<u8")
HIT = np.dtype([(f.name, kind) for f, kind in zip(fields(Hit), _HIT_TYPES, strict=True)])
"""Hit as a row."""
_EVENT_TYPES = ("<i8", "<i8", "<i2", "<i4", "<u8", "<u8", "?", "<i8", "<i8", "<u8")
EVENT = np.dtype(list(zip(ProbedAccept._fields, _EVENT_TYPES, strict=True)))
"""ProbedAccept as a row."""
_FOLLOWS = np.zeros((4, 4), bool)
for _before, _after in (
    (CALL, PLATFORM_CALL),
    (CALL, RETURN),
    (PLATFORM_CALL, PLATFORM_RETURN),
    (PLATFORM_RETURN, PLATFORM_CALL),
    (PLATFORM_RETURN, RETURN),
    (RETURN, CALL),
):
    _FOLLOWS[_before, _after] = True
_MAX_CARRIED = 10_000
"""Hits of one task carried for a call that does not end; then the call is given up."""
_SAME = ("time_ns", "pid", "first", "duration_ns", "wait_ns")
"""Columns that have the same name in events.parquet."""
_FIELDS = {
    CALL: ("start", None),
    RETURN: ("__probe_ret_ip", None),
    PLATFORM_CALL: ("start", "end"),
    PLATFORM_RETURN: (None, None),
}


@dataclass
class Pairs:
    """Collects accept events from windows of hits; `finish` when there are no more. From `since_ns`
    to `until_ns` all probes were on; outside, halves are not missed."""

    since_ns: int
    until_ns: int
    calls: int = 0
    unpaired: int = 0
    parts: list[Array] = field(default_factory=list)
    """Of EVENT, in no order."""
    _carried: Array = field(default_factory=lambda: np.zeros(0, HIT))

    def add(self, hits: Array) -> None:
        """Take the next window's hits: rows of HIT, ascending in time."""
        hits = np.concatenate([self._carried, hits])
        tasks = _tasks(hits)
        order = np.argsort(tasks, kind="stable")
        hits, tasks = hits[order], tasks[order]
        opens = np.concatenate([[True], tasks[1:] != tasks[:-1]])[: len(hits)]
        starts = np.nonzero(opens)[0]
        fits = np.where(
            opens, hits["kind"] == CALL, _FOLLOWS[np.roll(hits["kind"], 1), hits["kind"]]
        )
        group = np.cumsum(opens) - 1
        clean = np.bincount(group[~fits], minlength=len(starts)) == 0
        carried = [self._clean(hits[clean[group]], group[clean[group]])]
        ends = np.append(starts[1:], len(hits))
        for number in np.nonzero(~clean)[0]:
            carried.append(self._by_hand(hits[starts[number] : ends[number]]))
        self._carried = np.concatenate(carried)

    def finish(self) -> None:
        """What is still open now never ended."""
        rest, self._carried = self._carried, np.zeros(0, HIT)
        tasks = _tasks(rest)
        for task in np.unique(tasks):
            self._pair(rest[tasks == task])

    def _clean(self, hits: Array, group: Array) -> Array:
        """Pair hits that follow each other as they should; returns those of open calls."""
        if not len(hits):
            return hits
        last = np.append(group[1:] != group[:-1], True)
        is_call = hits["kind"] == CALL
        number = np.cumsum(is_call) - 1
        is_open = np.zeros(int(number[-1]) + 1, bool)
        is_open[number[last & (hits["kind"] != RETURN)]] = True
        carried: Array = hits[is_open[number]]
        hits = hits[~is_open[number]]
        self.calls += int((hits["kind"] == CALL).sum())
        if len(hits):
            self._emit(hits)
        return carried

    def _emit(self, hits: Array) -> None:
        number = np.cumsum(hits["kind"] == CALL) - 1
        begun, returned = hits[hits["kind"] == CALL], hits[hits["kind"] == RETURN]
        at = np.nonzero(hits["kind"] == PLATFORM_CALL)[0]
        accept, accepted, call = hits[at], hits[at + 1], number[at]
        events = np.zeros(len(at), EVENT)
        events["returned_ns"] = returned["time_ns"][call]
        events["time_ns"] = accepted["time_ns"]
        for name in ("cpu", "pid"):
            events[name] = returned[name][call]
        events["start"], events["end"] = accept["first"], accept["second"]
        events["first"] = hits["kind"][at - 1] == CALL
        events["duration_ns"] = accepted["time_ns"] - accept["time_ns"]
        waited = accept["time_ns"] - begun["time_ns"][call]
        events["wait_ns"] = np.where(events["first"], waited, 0)
        events["caller"] = returned["first"][call]
        self.parts.append(events)

    def _by_hand(self, hits: Array) -> Array:
        """One task's hits with something out of the ordinary; returns those from the first on that
        belongs to an open call or to a conversion whose other half may come."""
        depth: list[int] = []
        conversion: list[int] = []
        for at, kind in enumerate(hits["kind"].tolist()):
            if kind == CALL:
                depth.append(at)
            elif kind == RETURN and depth:
                depth.pop()
            elif kind == PLATFORM_CALL and not depth:
                conversion = [at]
            elif kind == PLATFORM_RETURN and not depth:
                conversion = []
        cut = min([*depth[:1], *conversion], default=len(hits))
        self._pair(hits[:cut])
        rest = hits[cut:]
        if len(rest) > _MAX_CARRIED:
            self._pair(rest)
            rest = rest[:0]
        return rest

    def _pair(self, hits: Array) -> None:
        found = pair((Hit(*row) for row in hits.tolist()), self.since_ns, self.until_ns)
        self.calls += found.calls
        self.unpaired += found.unpaired
        self.parts.append(np.array([tuple(event) for event in found.events], EVENT))

    def callers(self) -> list[int]:
        """The distinct return addresses, to be named."""
        distinct: set[int] = set()
        for part in self.parts:
            distinct.update(np.unique(part["caller"]).tolist())
        return sorted(distinct)


def _tasks(hits: Array) -> Array:
    """A number for each task; the idle tasks share pid 0 and are told apart by CPU."""
    pid = hits["pid"].astype(np.int64)
    return np.where(pid > 0, pid, -1 - hits["cpu"].astype(np.int64))


class HitWindows:
    """All hits among trace pages, merged over CPUs, a window of time at a time."""

    def __init__(self, frames: Frames, layouts: Sequence[tuple[int, EventFormat]]) -> None:
        """`layouts` has the kind that each format stands for."""
        self._frames, self._layouts = frames, layouts
        self.dropped = False
        """Whether pages said that hits before them were dropped."""

    def __iter__(self) -> Iterator[Array]:
        return merged(self._of(cpu) for cpu in self._frames.pages)

    def _of(self, cpu: int) -> Iterator[Array]:
        for chunk in self._frames.chunks(cpu):
            for batches in read_mixed(chunk, [layout for _, layout in self._layouts]):
                self.dropped |= any(batch.missed_unknown or batch.missed for batch in batches)
                parts = [
                    _rows(cpu, kind, batch)
                    for (kind, _), batch in zip(self._layouts, batches, strict=True)
                ]
                at = np.concatenate([batch.at for batch in batches])
                yield np.concatenate(parts)[np.argsort(at, kind="stable")]


def _rows(cpu: int, kind: int, batch: Batch) -> Array:
    rows = np.zeros(len(batch.fields), HIT)
    rows["time_ns"], rows["cpu"], rows["kind"] = batch.time_ns, cpu, kind
    try:
        rows["pid"] = batch.fields["common_pid"]
        for name, source in zip(("first", "second"), _FIELDS[kind], strict=True):
            if source:
                rows[name] = batch.fields[source]
    except ValueError as error:
        raise PreconditionError(f"a probe's format is not the known one: {error}") from error
    return rows


def merged(streams: Iterable[Iterator[Array]]) -> Iterator[Array]:
    """Windows over streams of rows, each stream ascending in time: what is known of all of them."""
    held = [(rows, stream) for stream in streams if (rows := _next(stream)) is not None]
    while held:
        until = min(int(rows["time_ns"][-1]) for rows, _ in held)
        taken, kept = [], []
        for rows, stream in held:
            cut = int(np.searchsorted(rows["time_ns"], until, side="right"))
            taken.append(rows[:cut])
            rest = rows[cut:] if cut < len(rows) else _next(stream)
            if rest is not None:
                kept.append((rest, stream))
        window = np.concatenate(taken)
        held = kept
        yield window[np.argsort(window["time_ns"], kind="stable")]


def _next(stream: Iterator[Array]) -> Array | None:
    return next((rows for rows in stream if len(rows)), None)


def write_pairs(
    pairs: Pairs, comms: Mapping[int, str], symbols: Mapping[int, str], writer: EventsWriter
) -> None:
    """Write all events in order of CPU, then of their calls' returns."""
    events = np.concatenate(pairs.parts or [np.zeros(0, EVENT)])
    sizes = events["end"].astype(np.int64) - events["start"].astype(np.int64)
    wrong = (sizes < 0) | (sizes % UNIT_SIZE != 0)
    if wrong.any():
        bad = events[int(np.argmax(wrong))]
        raise PreconditionError(f"a probe saw an accept of {bad['start']:#x} to {bad['end']:#x}")
    for cpu in np.unique(events["cpu"]):
        own = events[events["cpu"] == cpu]
        own = own[np.lexsort((own["time_ns"], own["returned_ns"]))]
        columns = {
            **{name: own[name] for name in _SAME},
            "start_phys": own["start"],
            "end_phys": own["end"],
            "units": ((own["end"] - own["start"]) // np.uint64(UNIT_SIZE)).astype(np.int32),
            "irqs_off": np.zeros(len(own), bool),
            "comm": named(own["pid"], comms, "<...>"),
            "caller": named(own["caller"], symbols, "?"),
        }
        writer.add(columns, int(cpu))
