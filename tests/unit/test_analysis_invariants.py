# SPDX-License-Identifier: MIT
"""The table of invariants: each row fails on evidence that breaks it, and asks nothing of none."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.analysis.evidence import Evidence, Scope, Trace
from harness.analysis.invariants import INVARIANTS, Invariant, judge
from harness.analysis.kexec import KexecCycle
from harness.analysis.pressure import Bounds
from harness.analysis.reboot import RebootCycle
from harness.base.status import Status
from harness.base.units import UNIT_SIZE
from harness.record.counters import Counters
from harness.record.events import Events, TraceFacts
from harness.record.platform_state import PendingRun
from harness.record.run import run_record
from harness.record.trace import AcceptEvent
from tests.support.event_files import write_events
from tests.support.platform_streams import PENDING, small_stream, witness
from tests.support.readings import reading as consistent_reading

STATS: dict[str, int | str] = {
    "units_marked": 20,
    "units_added": 0,
    "units_removed": 0,
    "accept_units": 6,
    "untraced_units": 6,
    "table_pending": 14,
    "backend_pending": 14,
    "units_before_init": 3,
    "double_accepts": 0,
    "illegal_accesses": 0,
    "divergent": 0,
}
QUIET = {"pgscan_direct": 0, "thp_fault_fallback": 0, "compact_stall": 0}


def reading(blocks: int = 7, vmstat: dict[str, int] | None = None, **stats: int) -> Counters:
    return consistent_reading(
        blocks * 1024, emulation={**STATS, **stats}, vmstat=QUIET | (vmstat or {})
    )


def accept(**changes: Any) -> AcceptEvent:
    event = AcceptEvent(5, 0, 1, "cvm", 0, UNIT_SIZE, 1, True, 1, 0, True, "f+0x1/0x2")
    return dataclasses.replace(event, **changes)


def window(**changes: Any) -> Evidence:
    return Evidence(before=reading(), **{"after": reading(), "bounds": Bounds(1000), **changes})


def pressure(name: str) -> Evidence:
    return window(after=reading(vmstat={name: 3}))


def run_of(**record: Any) -> Evidence:
    return Evidence(before=reading(), after=reading(), record=run_record(record))


def two_sources(tmp_path: Path) -> Evidence:
    for name, events in (("probes", [accept()]), ("event", [accept(), accept()])):
        write_events(tmp_path / name, events, TraceFacts(name, {}, since_ns=0, until_ns=9))
    return Evidence(probed=Events(tmp_path / "probes"), recorded=Events(tmp_path / "event"))


def broken_stream(tmp_path: Path) -> Evidence:
    """A page that QEMU counts as pending was accepted by the stream."""
    stream = small_stream(tmp_path / "s", accepted=513)
    return Evidence(pending=PENDING, witness=witness(stream))


BROKEN: dict[str, Callable[[Path], Evidence]] = {
    "Counters agree": lambda _: Evidence(
        after=dataclasses.replace(reading(), meminfo_unaccepted_kib=4)
    ),
    "The table bounds the counter": lambda _: Evidence(after=reading(table_pending=15)),
    "Free memory adds up": lambda _: Evidence(after=dataclasses.replace(reading(), free_pages=1)),
    "No violation": lambda _: Evidence(after=reading(divergent=1)),
    "It never rises": lambda _: Evidence(before=reading(6), after=reading(7)),
    "Units are conserved": lambda _: Evidence(after=reading(backend_pending=13)),
    "The trace accounts for all": lambda _: Evidence(after=reading(), trace=Trace(1, 1, 0)),
    "The console is clean": lambda _: Evidence(console=[("oops", "BUG: x"), ("warn", "WARNING")]),
    "No reclaim": lambda _: pressure("pgscan_direct"),
    "No huge page falls back": lambda _: pressure("thp_fault_fallback"),
    "No compaction stall": lambda _: pressure("compact_stall"),
    "Waiting is bounded": lambda _: window(calls=[accept(wait_ns=9)] * 8),
    "Calls are bounded": lambda _: window(calls=[accept(units=4)]),
    "Boot accepts what it needs": lambda _: Evidence(after=reading(units_before_init=99), vcpus=1),
    "Guards explain the counter": lambda _: Evidence(
        after=reading(table_pending=4), pending=[PendingRun(0, 4 * UNIT_SIZE, True, True)]
    ),
    "Probes and trace event agree": two_sources,
    "Eager leaves nothing": lambda _: run_of(
        spec={"accept": "eager"}, boot={"init": {"nr_unaccepted_pages": 1024}}
    ),
    "The next kernel gets its memory": lambda _: Evidence(
        cycles=[KexecCycle(1, "efi", None, 1 << 20, 1 << 19, 2048, 1024, 1024, 1024)]
    ),
    "A reboot starts anew": lambda _: Evidence(
        reboots=[RebootCycle(1, 1 << 20, 1 << 20, 200_000, 100_000)]
    ),
    "The host's kernel is clean": lambda _: run_of(
        spec={"target": "snp"},
        host_watch={"kernel_log": "read", "splats": [{"kind": "oops", "line": "BUG: x"}]},
    ),
    "The platform's pages are conserved": broken_stream,
    "The platform saw nothing illegal": lambda _: Evidence(
        witness=witness(None, violations=[{"kind": "unaccepted", "count": 2}])
    ),
    "Witnesses agree": lambda _: Evidence(after=reading(5), pending=PENDING, witness=witness(None)),
}


@pytest.mark.parametrize("row", INVARIANTS, ids=lambda row: row.name)
def test_every_invariant_asks_nothing_where_nothing_is_known(row: Invariant) -> None:
    assert list(row.ask(Evidence())) == []
    assert row.scopes


def test_every_invariant_that_can_fail_has_evidence_that_breaks_it() -> None:
    """A precondition is never a FAIL: that there was something to accept is ERROR otherwise."""
    names = [row.name for row in INVARIANTS if row.signals != ("precondition",)]
    assert names == list(BROKEN)


@pytest.mark.parametrize("row", INVARIANTS, ids=lambda row: row.name)
def test_every_invariant_fails_on_what_breaks_it(row: Invariant, tmp_path: Path) -> None:
    if row.name not in BROKEN:
        lazy = Evidence(
            before=reading(0), record=run_record({"spec": {"accept": "lazy"}}), loaded=True
        )
        assert [check.status for check in row.ask(lazy)] == [Status.ERROR]
        return
    evidence = BROKEN[row.name](tmp_path)
    failed = [check for check in row.ask(evidence) if check.status is Status.FAIL]
    assert failed
    assert {check.signal for check in failed} <= set(row.signals or ("",))
    for scope in Scope:
        found = [check for check in judge(evidence, scope) if check in failed]
        assert found == (failed if scope in row.scopes else [])
        assert not [
            c for c in judge(evidence, scope, waived=row.signals) if c in found and c.signal
        ]


def test_sound_evidence_passes_all_that_can_be_asked_of_it() -> None:
    evidence = window(calls=[accept(duration_ns=9)] * 8, console=[])
    found = judge(evidence, Scope.WINDOW)
    assert {check.status for check in found} == {Status.PASS}
    assert {check.signal for check in found} >= {"counters", "conservation", "reclaim", "irqs-off"}


def test_a_kernel_that_was_handed_nothing_has_nothing_to_conserve() -> None:
    nothing = reading(0, units_marked=0, accept_units=0, backend_pending=0, table_pending=0)
    trace = Trace(0, 0, 0)
    evidence = Evidence(before=nothing, after=nothing, first=reading(), trace=trace)
    found = [c for c in judge(evidence, Scope.RUN) if c.signal == "conservation"]
    assert [(c.name, c.status) for c in found] == [
        ("units conserved (in the first kernel)", Status.PASS)
    ]
