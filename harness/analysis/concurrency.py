# SPDX-License-Identifier: MIT
"""How many CPUs were inside the platform's accept at once."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.record.events import Events

Array = npt.NDArray[Any]
_EVENTS_AT_ONCE = 2 << 20
"""Events sorted at once: 200 MB. A longer trace is cut into windows of time."""


@dataclass(frozen=True)
class Concurrency:
    most_cpus: int
    busy_ns: int
    """Time with at least one CPU inside."""
    mean_cpus: float
    """Average over the busy time."""


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
