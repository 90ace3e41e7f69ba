# SPDX-License-Identifier: MIT
"""What a workload's own report says: latency per operation, and which part of it was acceptance.

A worker's slowest operations come one by one with their start (recorder.h of the guest's programs).
An accept event belongs to an operation if the same task (the trace's pid is the worker's tid) had
it between the operation's start and end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.base.status import PreconditionError
from harness.record.events import Events
from harness.record.histogram import Histogram, merge, parse_histogram
from harness.record.trace import PERCENTS, Latency, latency_of

Array = npt.NDArray[Any]
_MAX_WORKERS = 1 << 16
_TAILS = (99.0, 99.9, 99.99)


@dataclass(frozen=True)
class Worker:
    """One task of the workload."""

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
    accept_ns: int
    wait_ns: int

    @property
    def share(self) -> float:
        """Share of the operations' time spent in acceptance, waiting included; 0 to 1."""
        return (self.accept_ns + self.wait_ns) / self.total_ns if self.total_ns else 0.0


def operations(reports: Sequence[Mapping[str, Any]]) -> Operations | None:
    """From the reports of guest programs; None where none of them times operations.

    Raises PreconditionError for reports that contradict themselves.
    """
    timed = [report for report in reports if "histogram" in report]
    if not timed:
        return None
    histogram = merge([parse_histogram(report["histogram"]) for report in timed])
    workers = tuple(worker for report in timed for worker in _workers(report))
    count = sum(_number(report, "operations") for report in timed)
    if histogram.total != count:
        raise PreconditionError(
            f"the workload counts {count} operations, its histogram {histogram.total}"
        )
    latency = None
    if count:
        latency = latency_of(
            count,
            histogram.percentiles(PERCENTS),
            float(max(_number(report, "max_ns") for report in timed)),
            float(sum(_number(report, "total_ns") for report in timed)),
        )
    return Operations(count, latency, workers, histogram)


def stall_shares(found: Operations, events: Events) -> tuple[StallShare, ...]:
    """For all operations, and for each tail whose operations are known one by one.

    The events are read once, a batch at a time, so that memory does not grow with the trace.
    """
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
    return tuple(some.share() for some in spans)


def _knows(worker: Worker, threshold: float) -> bool:
    """Whether every operation of the worker from `threshold` on is among its slowest."""
    return worker.operations == len(worker.slowest) or bool(
        len(worker.slowest) and worker.slowest[:, 1].min() < threshold
    )


@dataclass
class _Spans:
    """Spans of time of tasks, and the figures of the events in them."""

    percent: float
    threshold_ns: float
    operations: int
    total_ns: int
    by_tid: list[tuple[int, Array, Array]]
    """A task with the starts and ends of its spans."""
    accept_ns: int = 0
    wait_ns: int = 0

    def add(self, rows: Mapping[str, Array]) -> None:
        """Count the events of `rows`, ascending by pid, then time."""
        accept, wait = (
            np.concatenate([[0], np.cumsum(rows[name])]) for name in ("duration_ns", "wait_ns")
        )
        for tid, starts, ends in self.by_tid:
            low, high = np.searchsorted(rows["pid"], [tid, tid + 1])
            stamps = rows["time_ns"][low:high]
            first = low + np.searchsorted(stamps, starts, side="left")
            last = low + np.searchsorted(stamps, ends, side="right")
            self.accept_ns += int((accept[last] - accept[first]).sum())
            self.wait_ns += int((wait[last] - wait[first]).sum())

    def share(self) -> StallShare:
        """What was counted."""
        return StallShare(
            self.percent,
            self.threshold_ns,
            self.operations,
            self.total_ns,
            self.accept_ns,
            self.wait_ns,
        )


def _all_operations(found: Operations) -> _Spans:
    spans = [
        (worker.tid, np.array([worker.start_ns]), np.array([worker.stop_ns]))
        for worker in found.workers
    ]
    return _Spans(0.0, 0.0, found.count, sum(worker.total_ns for worker in found.workers), spans)


def _slow_operations(found: Operations, percent: float, threshold: float) -> _Spans:
    spans, count, total = [], 0, 0
    for worker in found.workers:
        slow = worker.slowest[worker.slowest[:, 1] >= threshold]
        count += len(slow)
        total += int(slow[:, 1].sum())
        spans.append((worker.tid, slow[:, 0], slow[:, 0] + slow[:, 1]))
    return _Spans(percent, threshold, count, total, spans)


def _workers(report: Mapping[str, Any]) -> list[Worker]:
    listed = report.get("workers")
    if not isinstance(listed, list) or len(listed) > _MAX_WORKERS:
        raise PreconditionError("a workload's report does not list its workers")
    return [_worker(entry) for entry in listed]


def _worker(entry: Any) -> Worker:
    if not isinstance(entry, Mapping):
        raise PreconditionError(f"not a worker in a workload's report: {entry!r:.80}")
    slowest = entry.get("slowest", [])
    if not isinstance(slowest, list) or not all(map(_pair, slowest)):
        raise PreconditionError("a worker's slowest operations are not pairs of numbers")
    pairs = np.array(slowest, dtype=np.int64).reshape(-1, 2)
    return Worker(
        tid=_number(entry, "tid"),
        start_ns=_number(entry, "start_monotonic_ns"),
        stop_ns=_number(entry, "stop_monotonic_ns"),
        total_ns=_number(entry, "total_ns"),
        operations=_number(entry, "operations"),
        slowest=pairs[np.argsort(pairs[:, 0], kind="stable")],
    )


def _pair(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(_whole, value))


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 62


def _number(message: Mapping[str, Any], name: str) -> int:
    value = message.get(name)
    if not _whole(value):
        raise PreconditionError(f"a workload's report has no number {name!r}: {value!r:.80}")
    assert isinstance(value, int)
    return value
