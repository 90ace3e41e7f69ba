# SPDX-License-Identifier: MIT
"""Probe hits are put together to the accepts that made them; halves are counted, not invented."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.analysis.probe_pairs import HIT, Pairs, merged, write_pairs
from harness.analysis.probes import (
    CALL,
    PLATFORM_CALL,
    PLATFORM_RETURN,
    RETURN,
    Hit,
    ProbedAccept,
    pair,
    sources_agree,
)
from harness.base.status import PreconditionError, Status
from harness.base.units import UNIT_SIZE
from harness.record.events import Events, EventsWriter, TraceFacts
from harness.record.trace import AcceptEvent
from tests.support.event_files import write_events

Array = npt.NDArray[Any]
CALLER = 0xFFFFFFFF81000123
ALWAYS = (0, 1 << 62)


def call(at: int, pid: int, units: list[int], cpu: int = 0, step: int = 10) -> list[Hit]:
    """A call that accepts ranges of so many units, a hit each `step` ns."""
    hits = [Hit(CALL, at, cpu, pid, 0, 0)]
    start = 0
    for count in units:
        at += step
        end = start + count * UNIT_SIZE
        hits.append(Hit(PLATFORM_CALL, at, cpu, pid, start, end))
        at += step
        hits.append(Hit(PLATFORM_RETURN, at, cpu, pid, 0, 0))
        start = end + UNIT_SIZE
    return [*hits, Hit(RETURN, at + step, cpu, pid, CALLER, 0)]


def units_of(event: ProbedAccept) -> int:
    return (event.end - event.start) // UNIT_SIZE


def test_ranges_of_one_call_are_its_rows() -> None:
    found = pair(call(100, 7, [2, 1]), *ALWAYS)
    assert (found.calls, found.unpaired) == (1, 0)
    one, two = found.events
    assert (one.first, units_of(one), one.duration_ns, one.wait_ns) == (True, 2, 10, 10)
    assert (two.first, units_of(two), two.wait_ns) == (False, 1, 0)
    assert (one.caller, one.time_ns, one.returned_ns) == (CALLER, 120, 150)


def test_a_call_that_found_nothing_is_a_call_without_rows() -> None:
    found = pair(call(0, 7, []), *ALWAYS)
    assert (found.calls, found.events, found.unpaired) == (1, (), 0)


def test_an_interrupt_inside_a_call_nests_and_idle_tasks_are_told_apart() -> None:
    outer, inner = call(0, 0, [1], step=100), call(150, 0, [3], step=5)
    other = call(1, 0, [2], cpu=1, step=60)
    hits = sorted([*outer, *inner, *other], key=lambda hit: hit.time_ns)
    found = pair(hits, *ALWAYS)
    assert found.unpaired == 0
    assert sorted((e.cpu, units_of(e)) for e in found.events) == [(0, 1), (0, 3), (1, 2)]


def test_halves_count_as_lost_only_while_the_probes_were_on() -> None:
    whole = call(100, 7, [1])
    late, early = whole[1:], whole[:-1]
    assert pair(late, 0, 1000).unpaired == 1
    assert pair(late[1:], 0, 1000).unpaired == 2
    assert pair(late, 500, 1000).unpaired == 0
    assert pair(early, 0, 1000).unpaired == 1
    assert pair(early, 0, 99).unpaired == 0


def test_what_is_accepted_outside_a_call_is_a_conversion() -> None:
    begin, *middle, end = call(100, 7, [1])
    conversion = [dataclasses.replace(hit, time_ns=hit.time_ns + 100) for hit in middle]
    found = pair([begin, *middle, end, *conversion], 0, 1000)
    assert (found.calls, len(found.events), found.unpaired) == (1, 1, 0)
    assert pair(conversion[:1], 0, 1000).unpaired == 1
    assert pair(conversion[1:], 0, 1000).unpaired == 1


@given(st.lists(st.lists(st.integers(1, 4), max_size=3), max_size=20), st.integers(1, 5))
def test_calls_of_many_tasks_interleaved_come_back_whole(
    calls: list[list[int]], tasks: int
) -> None:
    per_task: dict[int, list[Hit]] = {pid: [] for pid in range(1, tasks + 1)}
    for number, units in enumerate(calls):
        pid = number % tasks + 1
        at = per_task[pid][-1].time_ns + 1 if per_task[pid] else pid
        per_task[pid] += call(at, pid, units, step=pid)
    hits = sorted((h for own in per_task.values() for h in own), key=lambda hit: hit.time_ns)
    found = pair(hits, *ALWAYS)
    assert (found.calls, found.unpaired) == (len(calls), 0)
    assert sorted(units_of(e) for e in found.events) == sorted(n for units in calls for n in units)


def rows(hits: list[Hit]) -> Array:
    return np.array([dataclasses.astuple(hit) for hit in hits], HIT)


def in_windows(hits: list[Hit], size: int, since: int, until: int) -> Pairs:
    """The same hits as each CPU has them, in pieces of `size`, merged."""

    def stream(cpu: int) -> Iterator[Array]:
        own = rows([hit for hit in hits if hit.cpu == cpu])
        yield from (own[at : at + size] for at in range(0, len(own), size))

    pairs = Pairs(since, until)
    for window in merged(stream(cpu) for cpu in sorted({hit.cpu for hit in hits})):
        pairs.add(window)
    pairs.finish()
    return pairs


@st.composite
def hit_lists(draw: st.DrawFn) -> list[Hit]:
    """Hits of some tasks on some CPUs: most as they should be, some lost, some from nowhere."""
    sequences = []
    for pid in range(draw(st.integers(1, 4))):
        own: list[Hit] = []
        for ranges in draw(st.lists(st.lists(st.integers(1, 3), max_size=3), max_size=6)):
            whole = call(0, pid, ranges)
            if draw(st.booleans()):  # an interrupt accepts within the call
                at = draw(st.integers(1, len(whole) - 1))
                whole[at:at] = call(0, pid, [1])
            lost = draw(st.none() | st.integers(0, len(whole) - 1))
            own += [hit for at, hit in enumerate(whole) if at != lost]
        sequences.append(own)
    found: list[Hit] = []
    while any(sequences):
        own = draw(st.sampled_from([some for some in sequences if some]))
        cpu = draw(st.integers(0, 2)) if own[0].pid else 0
        found.append(dataclasses.replace(own.pop(0), time_ns=len(found) + 1, cpu=cpu))
    return found


@given(hit_lists(), st.integers(1, 9), st.integers(0, 10), st.integers(10, 60))
def test_in_windows_hits_come_to_the_same_as_one_by_one(
    hits: list[Hit], size: int, since: int, until: int
) -> None:
    expected = pair(hits, since, until)
    found = in_windows(hits, size, since, until)
    assert (found.calls, found.unpaired) == (expected.calls, expected.unpaired)
    events = [tuple(row) for part in found.parts for row in part.tolist()]
    assert sorted(events) == sorted(map(tuple, expected.events))


def test_a_call_within_a_conversion_does_not_end_it_in_windows() -> None:
    """An interrupt accepts between a conversion's halves, each hit in a window of its own."""
    begin, *middle, end = call(100, 7, [1])
    inner = call(0, 7, [1])
    order = [begin, end, middle[0], *inner, middle[1]]
    hits = [dataclasses.replace(hit, time_ns=at) for at, hit in enumerate(order, start=1)]
    expected = pair(hits, *ALWAYS)
    assert (expected.calls, expected.unpaired) == (2, 0)
    found = in_windows(hits, 1, *ALWAYS)
    assert (found.calls, found.unpaired) == (2, 0)


def test_a_call_that_never_ends_is_not_carried_for_ever() -> None:
    hits = [Hit(CALL, 1, 0, 7, 0, 0)]
    for at in range(12_000):
        hits.append(Hit(PLATFORM_CALL, 2 * at + 2, 0, 7, 0, UNIT_SIZE))
        hits.append(Hit(PLATFORM_CALL, 2 * at + 3, 0, 7, 0, UNIT_SIZE))
    found = in_windows(hits, 1000, *ALWAYS)
    assert (found.calls, sum(map(len, found.parts))) == (1, 0)
    assert found.unpaired >= 1


def test_pairs_are_written_by_cpu_with_their_names(tmp_path: Path) -> None:
    hits = [*call(100, 7, [2, 1], cpu=1), *call(400, 8, [3], cpu=0)]
    found = in_windows(hits, 100, *ALWAYS)
    with EventsWriter(tmp_path / "e") as writer:
        write_pairs(found, {7: "cvm"}, {CALLER: "__accept_page+0x7a"}, writer)
        writer.finish(TraceFacts("probes", {}))
    table = pq.read_table(tmp_path / "e", columns=["cpu", "comm", "caller", "units", "call"])
    assert table.to_pydict() == {
        "cpu": [0, 1, 1],
        "comm": ["<...>", "cvm", "cvm"],
        "caller": ["__accept_page+0x7a"] * 3,
        "units": [3, 2, 1],
        "call": [0, 1, 1],
    }
    assert found.callers() == [CALLER]
    odd = in_windows([Hit(h.kind, h.time_ns, 0, 7, 5, 9) for h in call(0, 7, [1])], 9, *ALWAYS)
    with EventsWriter(tmp_path / "o") as writer, pytest.raises(PreconditionError, match="a probe"):
        write_pairs(odd, {}, {}, writer)


def accepts(*units: int) -> list[AcceptEvent]:
    return [
        AcceptEvent(at, 0, 1, "x", at * UNIT_SIZE, (at + n) * UNIT_SIZE, n, True, 5, 0, True, "f")
        for at, n in enumerate(units, 1)
    ]


def compare(
    tmp_path: Path, probes: list[AcceptEvent], events: list[AcceptEvent], lost: int = 0
) -> Status:
    write_events(tmp_path / "p", probes, TraceFacts("probes", {0: lost}, since_ns=1, until_ns=99))
    write_events(tmp_path / "e", events, TraceFacts("event", {}))
    return sources_agree(Events(tmp_path / "p"), Events(tmp_path / "e")).status


def test_sources_agree_range_by_range_or_fail(tmp_path: Path) -> None:
    assert compare(tmp_path, accepts(1, 2), accepts(1, 2)) is Status.PASS
    assert compare(tmp_path, accepts(1, 2), accepts(2, 1)) is Status.FAIL  # same count, same bytes
    assert compare(tmp_path, accepts(1), accepts(1, 2)) is Status.FAIL
    assert compare(tmp_path, [], []) is Status.ERROR
    assert compare(tmp_path, accepts(1), accepts(1), lost=1) is Status.ERROR
