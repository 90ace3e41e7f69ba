# SPDX-License-Identifier: MIT
"""A workload's own report: latency per operation, and which part of it was acceptance: the accept
events that the same task (their pid is the worker's tid) had from an operation's start to its
end."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

import msgspec
import numpy as np

from harness.base.status import PreconditionError
from harness.record.columns import Array
from harness.record.events import Events
from harness.record.histogram import Histogram, merge, parse_histogram
from harness.record.trace import PERCENTS, Latency, latency_of

_Number = Annotated[int, msgspec.Meta(ge=0, lt=1 << 62)]
_TAILS = (99.0, 99.9, 99.99)


@dataclass(frozen=True)
class Worker:
    tid: int
    start_ns: int
    stop_ns: int
    total_ns: int
    """Sum over its operations."""
    operations: int
    slowest: Array
    """Shape (kept, 2): start and duration in ns, of its slowest operations, by start."""


@dataclass(frozen=True)
class Operations:
    """All operations of a run's workloads."""

    count: int
    latency: Latency | None
    """Percentiles to within a bucket, 1.6 %; count, sum and maximum are exact."""
    workers: tuple[Worker, ...]
    histogram: Histogram | None


@dataclass(frozen=True)
class StallShare:
    """Acceptance within the operations at and above a percentile."""

    percent: float
    """100 x the share of operations below; 0: all operations."""
    threshold_ns: float
    """What the fastest of these operations took."""
    operations: int
    total_ns: int
    accept_ns: int = 0
    wait_ns: int = 0

    @property
    def share(self) -> float:
        """Share of the operations' time spent in acceptance, waiting included; 0 to 1."""
        return (self.accept_ns + self.wait_ns) / self.total_ns if self.total_ns else 0.0


def operations(reports: Sequence[Mapping[str, Any]]) -> Operations | None:
    """From the reports of guest programs; None where none of them times operations. Raises
    PreconditionError for reports that contradict themselves."""
    try:
        timed = [msgspec.convert(report, _Report) for report in reports if "histogram" in report]
    except msgspec.ValidationError as error:
        raise PreconditionError(f"a workload's report makes no sense: {error}") from error
    if not timed:
        return None
    histogram = merge([parse_histogram(report.histogram) for report in timed])
    workers = tuple(_worker(worker) for report in timed for worker in report.workers)
    count = sum(report.operations for report in timed)
    if histogram.total != count:
        raise PreconditionError(
            f"the workload counts {count} operations, its histogram {histogram.total}"
        )
    latency = None
    if count:
        latency = latency_of(
            count,
            histogram.percentiles(PERCENTS),
            float(max(report.max_ns for report in timed)),
            float(sum(report.total_ns for report in timed)),
        )
    return Operations(count, latency, workers, histogram)


def stall_shares(found: Operations, events: Events) -> tuple[StallShare, ...]:
    """For all operations, and for each tail whose operations are known one by one. Events are read
    once, a batch at a time."""
    if not found.workers or found.histogram is None or not found.count:
        return ()
    spans = [_all_operations(found)]
    lowest, _ = found.histogram.bounds()
    cumulated = np.cumsum(found.histogram.counts)
    for percent in _TAILS:
        rank = np.ceil(percent / 100 * found.count)
        threshold = float(lowest[np.searchsorted(cumulated, max(rank, 1))])
        if all(_knows(worker, threshold) for worker in found.workers):
            spans.append(_slow_operations(found, percent, threshold))
    tids = np.array(sorted({worker.tid for worker in found.workers}), np.int64)
    for batch in events.batches("pid", "time_ns", "duration_ns", "wait_ns"):
        own = np.isin(batch["pid"], tids)
        rows = {name: values[own].astype(np.int64) for name, values in batch.items()}
        order = np.lexsort((rows["time_ns"], rows["pid"]))
        rows = {name: values[order] for name, values in rows.items()}
        for some in spans:
            some.add(rows)
    return tuple(some.share for some in spans)


def _knows(worker: Worker, threshold: float) -> bool:
    """Whether every operation of the worker from `threshold` on is among its slowest."""
    return worker.operations == len(worker.slowest) or bool(
        len(worker.slowest) and worker.slowest[:, 1].min() < threshold
    )


@dataclass
class _Spans:
    """Spans of time of tasks, and the figures of the events in them."""

    share: StallShare
    by_tid: list[tuple[int, Array, Array]]
    """A task with the starts and ends of its spans."""

    def add(self, rows: Mapping[str, Array]) -> None:
        """Count the events of `rows`, ascending by pid, then time."""
        accept, wait = (
            np.concatenate([[0], np.cumsum(rows[name])]) for name in ("duration_ns", "wait_ns")
        )
        accepted, waited = self.share.accept_ns, self.share.wait_ns
        for tid, starts, ends in self.by_tid:
            low, high = np.searchsorted(rows["pid"], [tid, tid + 1])
            stamps = rows["time_ns"][low:high]
            first = low + np.searchsorted(stamps, starts, side="left")
            last = low + np.searchsorted(stamps, ends, side="right")
            accepted += int((accept[last] - accept[first]).sum())
            waited += int((wait[last] - wait[first]).sum())
        self.share = replace(self.share, accept_ns=accepted, wait_ns=waited)


def _all_operations(found: Operations) -> _Spans:
    total = sum(worker.total_ns for worker in found.workers)
    spans = [(w.tid, np.array([w.start_ns]), np.array([w.stop_ns])) for w in found.workers]
    return _Spans(StallShare(0.0, 0.0, found.count, total), spans)


def _slow_operations(found: Operations, percent: float, threshold: float) -> _Spans:
    spans, count, total = [], 0, 0
    for worker in found.workers:
        slow = worker.slowest[worker.slowest[:, 1] >= threshold]
        count += len(slow)
        total += int(slow[:, 1].sum())
        spans.append((worker.tid, slow[:, 0], slow[:, 0] + slow[:, 1]))
    return _Spans(StallShare(percent, threshold, count, total), spans)


class _Worker(msgspec.Struct, frozen=True):
    tid: _Number
    start_monotonic_ns: _Number
    stop_monotonic_ns: _Number
    total_ns: _Number
    operations: _Number
    slowest: tuple[tuple[_Number, _Number], ...] = ()


class _Report(msgspec.Struct, frozen=True):
    """What a program that times its operations says; what else it says is passed over."""

    histogram: Any
    operations: _Number
    max_ns: _Number
    total_ns: _Number
    workers: Annotated[tuple[_Worker, ...], msgspec.Meta(max_length=1 << 16)]


def _worker(found: _Worker) -> Worker:
    pairs = np.array(found.slowest, dtype=np.int64).reshape(-1, 2)
    return Worker(
        found.tid,
        found.start_monotonic_ns,
        found.stop_monotonic_ns,
        found.total_ns,
        found.operations,
        pairs[np.argsort(pairs[:, 0], kind="stable")],
    )
