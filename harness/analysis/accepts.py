# SPDX-License-Identifier: MIT
"""Figures of a run's accept events, in one pass over events.parquet in batches, so that memory does
not grow with the trace."""

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from harness.base.status import PreconditionError
from harness.base.units import UNIT_SIZE
from harness.record.columns import Array
from harness.record.events import Events
from harness.record.histogram import Histogram, histogram_of, merge
from harness.record.trace import PERCENTS, AcceptSummary, Latency, gib_per_s, latency, latency_of

_EXACT = 8 << 20
"""Values kept one by one; beyond, percentiles come from buckets 0.02 % wide."""
_BITS = 12
_CALLERS = 5
_EVENTS_AT_ONCE = 2 << 20
"""Events sorted at once: 200 MB. A longer trace is cut into windows of time."""
_MAX_BITS = 32
"""Sub-bucket bits with which each number of units below 2^33 has a bucket of its own."""


@dataclass(frozen=True)
class CpuShare:
    cpu: int
    calls: int
    units: int
    accept_ns: int
    wait_ns: int

    @property
    def gib_per_s(self) -> float | None:
        return gib_per_s(self.units, self.accept_ns)


@dataclass(frozen=True)
class Share:
    """Acceptance of a stage of the guest's life, or on behalf of one caller."""

    name: str
    calls: int
    units: int
    accept_ns: int
    wait_ns: int


@dataclass(frozen=True)
class Sizes:
    """Bytes accepted per call."""

    min_bytes: int
    p50_bytes: int
    mean_bytes: float
    max_bytes: int


@dataclass(frozen=True)
class Concurrency:
    """How many CPUs were inside the platform's accept at once."""

    most_cpus: int
    busy_ns: int
    """Time with at least one CPU inside."""
    mean_cpus: float
    """Average over the busy time."""


@dataclass(frozen=True)
class AcceptFigures:
    """Every figure computed from accept events."""

    summary: AcceptSummary
    waited_calls: int
    """Calls that waited for another CPU at all."""
    bytes_per_call: Sizes | None
    concurrency: Concurrency
    gib_per_busy_s: float | None
    """GiB per second in which any CPU was inside acceptance: the guest's throughput."""
    per_cpu: tuple[CpuShare, ...]
    stages: tuple[Share, ...]
    callers: tuple[Share, ...]
    """Those with most units, symbols without offsets."""


@dataclass(frozen=True)
class StageBounds:
    """Guest CLOCK_MONOTONIC, ns; None where a stage never began."""

    init_ns: int
    workload_ns: int | None = None
    end_ns: int | None = None

    @property
    def edges(self) -> list[int]:
        """Between the stages that there were."""
        return [at for at in (self.init_ns, self.workload_ns, self.end_ns) if at is not None]


STAGES = ("before init", "init to workload", "workload", "after the workload")


class LatencyCounter:
    """A distribution of nanoseconds: exact to some millions of values, then in narrow buckets."""

    def __init__(self) -> None:
        self._held: list[Array] = []
        self._size = 0
        self._histogram: Histogram | None = None
        self.count = self.total = self.max = 0

    def add(self, values: Array) -> None:
        if not len(values):
            return
        self._held.append(values)
        self._size += len(values)
        self.count += len(values)
        self.total += int(values.sum())
        self.max = max(self.max, int(values.max()))
        if self._histogram is not None or self._size > _EXACT:
            parts = [histogram_of(part, _BITS) for part in self._held]
            parts += [self._histogram] if self._histogram else []
            self._histogram, self._held = merge(parts), []

    def result(self) -> Latency | None:
        """None where nothing was counted."""
        if self._histogram is None:
            return latency(np.concatenate(self._held) if self._held else [])
        points = self._histogram.percentiles(PERCENTS)
        return latency_of(self.count, points, float(self.max), float(self.total))


def figures(events: Events, bounds: StageBounds) -> AcceptFigures:
    """One pass for calls, CPUs, stages and callers; one more for concurrency. Raises
    PreconditionError where the file's calls are not in order."""
    accept, wait, sizes = LatencyCounter(), LatencyCounter(), Counter[int]()
    cpus, stages, callers = _Sums(), _Sums(), _Sums()
    names: list[str] = []
    edges = np.array(bounds.edges, np.int64)
    waited = units = 0
    for calls in _call_batches(events, names):
        accept.add(calls["duration_ns"])
        wait.add(calls["wait_ns"])
        waited += int((calls["wait_ns"] > 0).sum())
        units += int(calls["units"].sum())
        for size, count in zip(*np.unique(calls["units"], return_counts=True), strict=True):
            sizes[int(size)] += int(count)
        cpus.add(calls["cpu"], calls)
        stages.add(np.searchsorted(edges, calls["time_ns"], side="right"), calls)
        callers.add(calls["caller"], calls)
    overlap = concurrency(events)
    summary = AcceptSummary(
        calls=accept.count,
        events=events.rows,
        units=units,
        bytes_accepted=units * UNIT_SIZE,
        accept=accept.result(),
        wait=wait.result(),
        gib_per_s=gib_per_s(units, accept.total),
    )
    most = sorted(callers.rows.items(), key=lambda row: -row[1][1])[:_CALLERS]
    return AcceptFigures(
        summary,
        waited,
        _sizes(sizes),
        overlap,
        gib_per_s(units, overlap.busy_ns),
        tuple(CpuShare(cpu, *row) for cpu, row in sorted(cpus.rows.items())),
        tuple(
            Share(name, *stages.rows.get(number, (0, 0, 0, 0)))
            for number, name in enumerate(STAGES[: len(edges) + 1])
        ),
        tuple(Share(names[code], *row) for code, row in most),
    )


class _Sums:
    """Calls, units, accept time and wait time for each value of a key."""

    def __init__(self) -> None:
        self.rows: dict[int, tuple[int, int, int, int]] = {}

    def add(self, keys: Array, calls: Mapping[str, Array]) -> None:
        distinct, index, counts = np.unique(keys, return_inverse=True, return_counts=True)
        sums = [counts.astype(np.int64)]
        for name in ("units", "duration_ns", "wait_ns"):
            column = np.zeros(len(distinct), np.int64)
            np.add.at(column, index.reshape(-1), calls[name])
            sums.append(column)
        for key, *row in zip(distinct, *sums, strict=True):
            before = self.rows.get(int(key), (0, 0, 0, 0))
            now = [int(a) + int(b) for a, b in zip(before, row, strict=True)]
            self.rows[int(key)] = (now[0], now[1], now[2], now[3])


def _call_batches(events: Events, names: list[str]) -> Iterator[dict[str, Array]]:
    """One entry a call instead of one a range. `names` gets the callers that codes stand for."""
    columns = ("call", "cpu", "time_ns", "units", "duration_ns", "wait_ns")
    left: dict[str, Array] = {}
    last_call = -1
    for batch in events.record_batches(*columns, "caller"):
        rows = {name: batch.column(name).to_numpy(zero_copy_only=False) for name in columns}
        rows["caller"] = _codes(batch.column("caller"), names)
        if not len(rows["call"]):
            continue
        if rows["call"][0] < last_call or np.any(np.diff(rows["call"]) < 0):
            raise PreconditionError(f"{events.path}: the calls are not in order")
        last_call = int(rows["call"][-1])
        if left:
            rows = {name: np.concatenate([left[name], rows[name]]) for name in rows}
        # The last call may go on in the next batch.
        cut = int(np.searchsorted(rows["call"], last_call))
        left = {name: values[cut:] for name, values in rows.items()}
        if cut:
            yield _grouped({name: values[:cut] for name, values in rows.items()})
    if left:
        yield _grouped(left)


def _grouped(rows: Mapping[str, Array]) -> dict[str, Array]:
    starts = np.nonzero(np.diff(rows["call"], prepend=rows["call"][0] - 1))[0]
    summed = ("units", "duration_ns", "wait_ns")
    return {
        name: np.add.reduceat(values.astype(np.int64), starts) if name in summed else values[starts]
        for name, values in rows.items()
    }


def _codes(column: pa.DictionaryArray, names: list[str]) -> Array:
    """Callers as numbers that are the same in all batches; offsets into functions are cut off."""
    texts = [str(text).partition("+")[0] for text in column.dictionary.to_pylist()]
    for text in texts:
        if text not in names:
            names.append(text)
    codes = np.array([names.index(text) for text in texts], np.int64)
    return np.asarray(codes[column.indices.to_numpy(zero_copy_only=False)])


def _sizes(sizes: Counter[int]) -> Sizes | None:
    """From the number of calls of each size in units."""
    if not sizes:
        return None
    units = np.array(sorted(sizes), np.int64)
    counts = np.array([sizes[int(unit)] for unit in units], np.int64)
    middle = Histogram(_MAX_BITS, units, counts).percentiles([50])[0]
    return Sizes(
        int(units[0]) * UNIT_SIZE,
        int(middle) * UNIT_SIZE,
        float(np.average(units, weights=counts)) * UNIT_SIZE,
        int(units[-1]) * UNIT_SIZE,
    )


def concurrency(events: Events, at_once: int = _EVENTS_AT_ONCE) -> Concurrency:
    """From each event's end stamp and duration. A binary trace's stamps are exact to the ns."""
    return _joined(_overlap(*window) for window in _windows(events, at_once))


def overlap(starts: Array, ends: Array) -> Concurrency:
    """Of intervals given in nanoseconds. Touching ones do not overlap."""
    return _joined([_overlap(starts, ends)])


def _overlap(starts: Array, ends: Array) -> tuple[int, int, int]:
    """The most at once, the time with any, and the time summed over all."""
    stamps = np.concatenate([ends, starts])
    if not len(stamps):
        return 0, 0, 0
    # Ends first, and a stable sort: at equal stamps the end comes before the start.
    order = np.argsort(stamps, kind="stable")
    steps = np.where(order < len(ends), -1, 1).astype(np.int32)
    inside = np.cumsum(steps)
    spans = np.diff(stamps[order], append=stamps[order[-1]])
    busy = int(spans[inside > 0].sum())
    return int(inside.max()), busy, int((spans * np.maximum(inside, 0)).sum())


def _joined(parts: Any) -> Concurrency:
    most = busy = weighted = 0
    for part_most, part_busy, part_weighted in parts:
        most = max(most, part_most)
        busy += part_busy
        weighted += part_weighted
    return Concurrency(most, busy, weighted / busy if busy else 0.0)


def _windows(events: Events, at_once: int) -> Iterator[tuple[Array, Array]]:
    """The intervals, cut at the bounds of windows of time that hold about `at_once` each."""
    if events.rows <= at_once:
        yield _between(events, None, None)
        return
    low, high = np.inf, -np.inf
    for batch in events.batches("time_ns", "duration_ns"):
        low = min(low, int((batch["time_ns"] - batch["duration_ns"]).min()))
        high = max(high, int(batch["time_ns"].max()))
    pieces = -(-events.rows // at_once)
    bounds = np.linspace(low, high, pieces + 1).astype(np.int64)
    bounds[-1] = int(high)
    for start, end in itertools.pairwise(bounds):
        yield _between(events, int(start), int(end))


def _between(events: Events, low: int | None, high: int | None) -> tuple[Array, Array]:
    starts, ends = [], []
    cpu, until = -1, 0
    for batch in events.batches("cpu", "time_ns", "duration_ns"):
        end = batch["time_ns"]
        if not len(end):
            continue
        # A CPU accepts one range after the other. Before the guest's clock is calibrated, stamps
        # are coarse, and would have it accept several at once.
        changes = np.diff(batch["cpu"], prepend=cpu) != 0
        before = np.where(changes, np.iinfo(np.int64).min, np.concatenate([[until], end[:-1]]))
        start = np.minimum(np.maximum(end - batch["duration_ns"], before), end)
        cpu, until = int(batch["cpu"][-1]), int(end[-1])
        if low is not None and high is not None:
            inside = (end > low) & (start < high)
            start, end = np.maximum(start[inside], low), np.minimum(end[inside], high)
        starts.append(start)
        ends.append(end)
    empty = [np.zeros(0, np.int64)]
    return np.concatenate(starts or empty), np.concatenate(ends or empty)
