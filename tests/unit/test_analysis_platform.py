# SPDX-License-Identifier: MIT
"""The emulated platform against its own stream, the kernel's counter and the kernel's events."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from harness.analysis import platform
from harness.analysis.evidence import Evidence, Trace, Witness
from harness.analysis.invariants import INVARIANTS
from harness.base.status import PreconditionError, Status
from harness.base.units import MAX_ORDER_PAGES, PAGE_SIZE, PAGES_PER_UNIT, UNIT_SIZE
from harness.record.check import Check
from harness.record.counters import Counters
from harness.record.events import Events, TraceFacts
from harness.record.platform import PlatformEvents, WitnessKind, read_stream, store_stream
from harness.record.platform_state import (
    PendingRun,
    parse_info,
    parse_pages,
    parse_pending,
    parse_pending_pages,
    parse_violation,
    pending_text,
)
from harness.record.trace import AcceptEvent
from tests.support.event_files import write_events
from tests.support.platform_streams import (
    HIGH,
    PENDING,
    info,
    record,
    small_stream,
    witness,
    write_stream,
)


def counters(blocks: int, monotonic_ns: int = 0) -> Counters:
    return Counters(monotonic_ns, blocks * MAX_ORDER_PAGES, 0, 0, 0, {}, (), 0, {})


def asked(name: str, **evidence: Any) -> list[Check]:
    """What one invariant finds in the evidence."""
    (row,) = (row for row in INVARIANTS if row.name == name)
    return list(row.ask(Evidence(**evidence)))


def agreement(seen: Witness, after: Counters) -> list[Check]:
    return asked("Witnesses agree", after=after, pending=PENDING, witness=seen)


def stored(path: Path) -> PlatformEvents:
    store_stream(read_stream(path), path.with_suffix(".parquet"))
    return PlatformEvents(path.with_suffix(".parquet"))


def test_every_witness_of_a_sound_guest_agrees(tmp_path: Path) -> None:
    seen = witness(small_stream(tmp_path / "s"))
    found = [
        *asked("The platform's pages are conserved", pending=PENDING, witness=seen),
        *agreement(seen, counters(7)),
        platform.no_violations(info()),
        platform.nothing_accepted_twice(info()),
    ]
    assert {check.status for check in found} == {Status.PASS}
    assert len(found) == 6


def test_a_page_that_is_nowhere_breaks_the_ledger() -> None:
    pages = {"pending": 14 * PAGES_PER_UNIT - 1, "private": 0, "shared": 0}
    assert platform.ledger_balances(info(pages=pages)).status is Status.FAIL


def test_a_platform_that_had_nothing_pending_proves_nothing() -> None:
    none = {"pending": 0, "private": 9, "shared": 0}
    found = platform.ledger_balances(info(**{"at-launch": none}))
    assert found.status is Status.ERROR


@pytest.mark.parametrize("lost", ["dropped", "gap", "torn"])
def test_a_stream_that_lost_anything_is_void(tmp_path: Path, lost: str) -> None:
    path = write_stream(
        tmp_path / "s", record(WitnessKind.LAUNCH, npages=9), record(WitnessKind.ACCEPT, seq=3)
    )
    if lost == "torn":
        path = write_stream(
            tmp_path / "t", record(WitnessKind.LAUNCH, npages=9), record(WitnessKind.ACCEPT)
        )
        path.write_bytes(path.read_bytes()[:-3])
    events = {"written": 2, "dropped": int(lost == "dropped")}
    found = platform.stream_agrees(stored(path), info(events=events))
    assert (found.status, found.detail.startswith("void")) == (Status.ERROR, True)


def test_no_stream_and_no_launch_are_errors(tmp_path: Path) -> None:
    assert platform.stream_agrees(None, info()).status is Status.ERROR
    path = write_stream(tmp_path / "s", record(WitnessKind.ACCEPT, npages=512, aux=512))
    assert platform.stream_agrees(stored(path), info()).status is Status.ERROR


def test_a_restored_guests_stream_counts_from_its_snapshot(tmp_path: Path) -> None:
    path = write_stream(
        tmp_path / "s",
        record(WitnessKind.RESTORE, npages=15 * PAGES_PER_UNIT),
        record(WitnessKind.ACCEPT, npages=512, level=1, aux=512),
        record(
            WitnessKind.TO_SHARED, npages=4, aux=4
        ),  # private before, so not of the pending ones
        record(WitnessKind.TO_PENDING, npages=4, aux=4),
        record(WitnessKind.ACCEPT, npages=1, aux=4),
    )
    assert platform.stream_agrees(stored(path), info()).status is Status.PASS


def test_a_page_forgotten_beside_accepted_ones_is_found() -> None:
    odd = (*PENDING[:-1], PendingRun(HIGH, HIGH + 14 * UNIT_SIZE - PAGE_SIZE, True, True))
    pages = {"pending": 14 * PAGES_PER_UNIT - 1, "private": 0, "shared": 0}
    found = platform.pages_in_units(odd, info(pages=pages))
    assert (found.status, found.signal) == (Status.FAIL, "conservation")
    assert platform.pages_in_units(odd, info()).status is Status.ERROR


@pytest.mark.parametrize(("blocks", "status"), [(6, Status.FAIL), (7, Status.PASS)])
def test_the_counter_and_the_platform_differ_by_the_guards(blocks: int, status: Status) -> None:
    seen = witness(None)
    (found,) = agreement(seen, counters(blocks))
    assert found.status is status


def test_what_changed_while_it_was_read_is_not_compared() -> None:
    seen = witness(None, at_rest=False)
    (found,) = agreement(seen, counters(7))
    assert found.status is Status.ERROR


@pytest.mark.parametrize(
    ("units", "lost", "status"),
    [(1, 0, Status.PASS), (2, 0, Status.FAIL), (1, 5, Status.ERROR)],
)
def test_the_kernels_events_are_what_left_pending(
    tmp_path: Path, units: int, lost: int, status: Status
) -> None:
    end = HIGH + units * UNIT_SIZE
    event = AcceptEvent(50, 0, 1, "cvm", HIGH, end, units, True, 1, 0, True, "f")
    early = dataclasses.replace(event, time_ns=5)
    facts = TraceFacts("event", {0: lost + 7}, lost_in_boot=7)  # those are nothing to the run
    write_events(tmp_path / "e", [early, event], facts)
    before = replace(info(), flow=replace(info().flow, accepted=0, pending_to_shared=512))
    first, last = counters(8, 10), counters(7, 90)
    told = {"before": first, "after": last, "pending": PENDING, "witness": Witness(before, info())}
    of_run = {"events": Events(tmp_path / "e")}
    of_window = {"trace": Trace(units, 1, lost, since=first)}
    for source in (of_run, of_window):
        _, found = asked("Witnesses agree", **told, **source)
        assert found.status is status


def test_a_window_has_no_stream_and_is_judged_by_all_else() -> None:
    seen = Witness(None, info(), streamed=False)
    (*kept,) = asked("The platform's pages are conserved", pending=PENDING, witness=seen)
    assert [check.status for check in kept] == [Status.PASS, Status.PASS]


def test_a_violation_that_was_let_pass_is_a_failure() -> None:
    last = {
        "kind": "unaccepted",
        "access": "write",
        "gpa": HIGH,
        "gva": 0xFFFF888100000000,
        "state": "pending",
        "action": "report",
        "detail": "",
        "vcpu": 1,
        "rip": 0xFFFFFFFF81000000,
    }
    seen = info(violations=[{"kind": "unaccepted", "count": 1}], **{"last-violation": last})
    found = platform.no_violations(seen)
    assert (found.status, found.signal) == (Status.FAIL, "illegal-access")
    assert "GPA 0x100000000, GVA 0xffff888100000000, by vCPU 1 at RIP" in found.detail
    assert platform.no_violations(info(check=False)).status is Status.ERROR


def test_an_acceptance_that_was_done_before_is_a_failure() -> None:
    results = [{"result": "ok", "calls": 9}, {"result": "already", "calls": 1}]
    found = platform.nothing_accepted_twice(info(accepts=[{"level": 0, "results": results}]))
    assert (found.status, found.signal) == (Status.FAIL, "double-accept")


def test_pending_pages_come_back_as_bytes() -> None:
    runs = parse_pending_pages(
        [
            {"gpa": HIGH, "npages": 512, "state": "pending", "bits": 0},
            {"gpa": HIGH + UNIT_SIZE, "npages": 512, "state": "pending", "bits": 16},
            {"gpa": HIGH + 3 * UNIT_SIZE, "npages": 1024, "state": "pending", "bits": 0},
        ]
    )
    assert [(run.start - HIGH, run.end - HIGH) for run in runs] == [
        (0, 2 * UNIT_SIZE),
        (3 * UNIT_SIZE, 5 * UNIT_SIZE),
    ]
    assert parse_pending(pending_text(runs)) == runs
    page = (PendingRun(HIGH + PAGE_SIZE, HIGH + 2 * PAGE_SIZE, True, True),)
    assert parse_pending(pending_text(page), PAGE_SIZE) == page
    with pytest.raises(PreconditionError, match="unreadable line"):
        parse_pending(pending_text(page))


def test_runs_are_of_the_state_that_was_asked_for() -> None:
    answer = [
        {"gpa": 0, "npages": 1, "state": "private", "bits": 0},
        {"gpa": PAGE_SIZE, "npages": 2, "state": "shared", "bits": 0},
        {"gpa": HIGH, "npages": 1, "state": "shared", "bits": 0},
    ]
    runs = (range(PAGE_SIZE, 3 * PAGE_SIZE), range(HIGH, HIGH + PAGE_SIZE))
    assert parse_pages(answer, "shared") == runs
    with pytest.raises(PreconditionError, match="shared pages are out of order"):
        parse_pages(answer[::-1], "shared")


@pytest.mark.parametrize("answer", [None, {}, {"platform": 3}, "no", [1]])
def test_what_makes_no_sense_is_not_believed(answer: object) -> None:
    for parse in (parse_info, parse_violation):
        with pytest.raises(PreconditionError, match="make no sense"):
            parse(answer)
