# SPDX-License-Identifier: MIT
"""Trace text becomes events and figures, or a clear error: never a wrong number."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.base.status import PreconditionError
from harness.base.units import UNIT_SIZE
from harness.record.trace import AcceptEvent, lost_events, parse_events

HEADER = "# tracer: nop\n#\n#           TASK-PID     CPU#  |||||  TIMESTAMP  FUNCTION\n"


def line(event: AcceptEvent) -> str:
    seconds, rest = divmod(event.time_ns, 10**9)
    return (
        f"{event.comm:>16}-{event.pid:<7} [{event.cpu:03d}] d..1. {seconds:5d}.{rest // 1000:06d}: "
        f"accept_memory: start={event.start:#x} end={event.end:#x} units={event.units} "
        f"first={int(event.first)} duration_ns={event.duration_ns} wait_ns={event.wait_ns} "
        f"irqs_off={int(event.irqs_off)} caller={event.caller}\n"
    )


events = st.builds(
    AcceptEvent,
    time_ns=st.integers(0, 10**15).map(lambda us: us // 1000 * 1000),
    cpu=st.integers(0, 255),
    pid=st.integers(0, 4_194_304),
    comm=st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=15),
    start=st.integers(0, 1 << 20).map(lambda unit: unit * UNIT_SIZE),
    end=st.just(0),
    units=st.integers(0, 1024),
    first=st.booleans(),
    duration_ns=st.integers(0, 10**12),
    wait_ns=st.integers(0, 10**12),
    irqs_off=st.booleans(),
    caller=st.just("__accept_page+0x7a/0xc0"),
).map(lambda e: AcceptEvent(**{**vars(e), "end": e.start + e.units * UNIT_SIZE}))


@given(st.lists(events, max_size=20))
def test_what_the_kernel_prints_is_what_is_read(expected: list[AcceptEvent]) -> None:
    text = HEADER + "".join(map(line, expected))
    assert list(parse_events(text.splitlines())) == expected


@given(st.text(max_size=300))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        for event in parse_events(text.splitlines()):
            assert event.end - event.start == event.units * UNIT_SIZE
    except PreconditionError:
        pass


@given(events, st.integers(1, 60))
def test_a_cut_off_event_is_refused(event: AcceptEvent, cut: int) -> None:
    text = line(event).rstrip("\n")
    shorter = text[: text.index("caller=") - cut]
    if ": accept_memory:" in shorter:
        with pytest.raises(PreconditionError, match="unreadable"):
            list(parse_events([shorter]))


def test_an_event_that_contradicts_itself_is_refused() -> None:
    bad = line(AcceptEvent(0, 0, 1, "x", 0, UNIT_SIZE, 1, True, 1, 0, True, "f")).replace(
        "units=1", "units=2"
    )
    with pytest.raises(PreconditionError, match="contradicts"):
        list(parse_events([bad]))


def test_losses_are_added_up_and_never_assumed() -> None:
    text = (
        "entries: 5\noverrun: 2\ncommit overrun: 1\nbytes: 9\ndropped events: 4\nread events: 0\n"
    )
    assert lost_events(text) == 7
    with pytest.raises(PreconditionError, match="dropped events"):
        lost_events("overrun: 0\ncommit overrun: 0\n")
