# SPDX-License-Identifier: MIT
"""Invariants of pressure and cost: FAIL where they should, silent where they cannot know."""

import dataclasses

import pytest

from harness.analysis.evidence import Evidence, Scope
from harness.analysis.invariants import judge
from harness.analysis.pressure import (
    Bounds,
    boot_budget,
    boot_within_budget,
    calls_bounded,
    waiting_bounded,
)
from harness.base.overhead import Overhead
from harness.base.status import Status
from harness.record.check import Check
from harness.record.counters import Counters
from harness.record.trace import AcceptEvent

FREE = Bounds(0)
TDX = Bounds(1_300_000)


def reading(unaccepted: int = 10240, **events: int) -> Counters:
    vmstat = {"allocstall_normal": 0, "thp_fault_fallback": 0, "compact_stall": 0, **events}
    zero = ["table_pending", "backend_pending", "accept_units", "units_added", "units_removed"]
    zero += ["double_accepts", "illegal_accesses", "divergent"]
    stats = {**dict.fromkeys(zero, 0), "units_before_init": 100, "units_marked": 1000}
    return Counters(0, unaccepted, 0, 0, 0, {}, (), 0, stats, vmstat)


def event(
    cpu: int = 0, units: int = 2, duration: int = 1, wait: int = 0, first: bool = True
) -> AcceptEvent:
    return AcceptEvent(0, cpu, 1, "x", 0, 0, units, first, duration, wait, False, "f+0x0/0x1")


PRESSURE = {"reclaim", "thp-fallback", "compaction", "waiting", "irqs-off"}


def between(after: Counters, bounds: Bounds = FREE) -> list[Check]:
    """What a window from a quiet reading to `after` shows of pressure."""
    found = judge(Evidence(before=reading(), after=after, bounds=bounds), Scope.WINDOW)
    return [check for check in found if check.signal in PRESSURE]


@pytest.mark.parametrize(
    ("name", "signal"),
    [
        ("allocstall_normal", "reclaim"),
        ("pgscan_direct", "reclaim"),
        ("oom_kill", "reclaim"),
        ("thp_fault_fallback", "thp-fallback"),
        ("compact_stall", "compaction"),
    ],
)
def test_pressure_with_unaccepted_memory_left_fails(name: str, signal: str) -> None:
    found = between(reading(**{name: 3}))
    assert [check.signal for check in found if check.status is Status.FAIL] == [signal]
    assert any(f"{name} +3" in check.detail for check in found)


def test_pressure_with_nothing_unaccepted_is_not_judged() -> None:
    assert between(reading(0, allocstall_normal=9)) == []


def test_reclaim_that_the_test_asks_for_is_not_judged() -> None:
    bounds = dataclasses.replace(FREE, reclaim=True)
    found = between(reading(allocstall_normal=9), bounds)
    assert all(check.status is Status.PASS for check in found)


def test_waiting_is_judged_only_where_accepting_costs_and_calls_are_enough() -> None:
    slow = [event(cpu, duration=10, wait=100) for cpu in range(8)]
    assert waiting_bounded(slow, FREE) is None
    assert waiting_bounded(slow[:7], TDX) is None
    found = waiting_bounded(slow, TDX)
    assert found is not None
    assert found.status is Status.FAIL


def test_a_call_of_one_block_and_its_guard_passes_and_a_larger_one_fails() -> None:
    block = [event(units=2), event(cpu=1, units=1), event(units=1, first=False)]
    assert calls_bounded(block, FREE).status is Status.PASS  # type: ignore[union-attr]
    found = calls_bounded([*block, event(units=1, first=False)], FREE)
    assert found is not None
    assert found.status is Status.FAIL
    large = dataclasses.replace(FREE, large_calls=True)
    assert calls_bounded([event(units=512)], large).status is Status.PASS  # type: ignore[union-attr]


def test_a_call_that_takes_too_long_fails() -> None:
    long = calls_bounded([event(duration=FREE.call_slack_ns + 1)], FREE)
    assert long is not None
    assert long.status is Status.FAIL


def test_the_boot_budget_grows_with_vcpus_and_memory_and_bounds_the_boot() -> None:
    none, kasan = Overhead(), Overhead(1 / 8, 4 << 20)
    assert boot_budget(8, 1000, none) > boot_budget(1, 1000, none)
    assert boot_budget(1, 1 << 19, none) > boot_budget(1, 1000, none)
    assert boot_budget(1, 1000, kasan) == boot_budget(1, 1000, none) + 127
    assert boot_within_budget(reading(), 64).status is Status.PASS
    assert boot_within_budget(reading(), 1).status is Status.FAIL
