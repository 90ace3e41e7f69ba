# SPDX-License-Identifier: MIT
"""CPUs inside acceptance at once, on intervals checked by eye and in windows of any size."""

import tempfile
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from harness.analysis.accepts import concurrency, overlap
from harness.base.units import UNIT_SIZE
from harness.record.events import Events, TraceFacts
from harness.record.trace import AcceptEvent
from tests.support.event_files import write_events


def event(cpu: int, start: int, end: int) -> AcceptEvent:
    return AcceptEvent(end, cpu, 1, "x", 0, UNIT_SIZE, 1, True, end - start, 0, True, "f")


def test_overlap_is_counted_and_touching_is_not_overlap() -> None:
    found = overlap(np.array([0, 50, 150]), np.array([100, 150, 200]))
    assert found.most_cpus == 2
    assert found.busy_ns == 200
    assert found.mean_cpus == 250 / 200


def test_nothing_is_nothing() -> None:
    assert overlap(np.zeros(0, np.int64), np.zeros(0, np.int64)).most_cpus == 0


intervals = st.lists(st.tuples(st.integers(0, 1000), st.integers(1, 1000)), min_size=1, max_size=30)


@given(intervals)
def test_busy_time_times_mean_is_all_the_time_spent(spans: list[tuple[int, int]]) -> None:
    starts = np.array([start for start, _ in spans])
    lengths = np.array([length for _, length in spans])
    found = overlap(starts, starts + lengths)
    total = int(lengths.sum())
    assert abs(found.busy_ns * found.mean_cpus - total) < 1e-6 * total
    assert 1 <= found.most_cpus <= len(spans)


@given(intervals, st.integers(1, 10))
def test_a_long_trace_in_windows_comes_to_the_same(
    spans: list[tuple[int, int]], at_once: int
) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "events.parquet"
        events = [
            event(cpu % 4, start, start + length) for cpu, (start, length) in enumerate(spans)
        ]
        write_events(path, events, TraceFacts("event", {}))
        whole, cut = concurrency(Events(path)), concurrency(Events(path), at_once=at_once)
    assert (whole.most_cpus, whole.busy_ns) == (cut.most_cpus, cut.busy_ns)
    assert abs(whole.mean_cpus - cut.mean_cpus) < 1e-9


def test_one_cpu_is_never_inside_twice(tmp_path: Path) -> None:
    coarse = [event(0, 0, 4000), event(0, 500, 4000), event(0, 900, 4000), event(1, 0, 100)]
    write_events(tmp_path / "events.parquet", coarse, TraceFacts("event", {}))
    assert concurrency(Events(tmp_path / "events.parquet")).most_cpus == 2
