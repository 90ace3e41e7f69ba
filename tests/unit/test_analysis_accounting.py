# SPDX-License-Identifier: MIT
"""Invariants of the counters hold where they should; a wrong kernel is FAIL or ERROR."""

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest

from harness.analysis.accounting import conserved, never_rises
from harness.analysis.evidence import Evidence, Scope
from harness.analysis.invariants import judge
from harness.base.status import PreconditionError, Status
from harness.record import counters as c
from tests.support.readings import reading

BLOCKS = 100


def sound() -> c.Counters:
    """A consistent reading: 100 unaccepted blocks, 3 without their first unit (the guard)."""
    pages = BLOCKS * 1024
    return reading(
        pages,
        zones=(c.Zone(0, "DMA32", pages, pages + 5000, 10),),
        emulation={
            "table_pending": BLOCKS * 2 - 3,
            "backend_pending": BLOCKS * 2 - 3,
            "units_marked": 500,
            "units_added": 0,
            "units_removed": 0,
            "accept_units": 500 - (BLOCKS * 2 - 3),
            "double_accepts": 0,
            "illegal_accesses": 0,
            "divergent": 0,
        },
    )


def stat(name: str, value: int) -> Callable[[c.Counters], c.Counters]:
    return lambda r: dataclasses.replace(r, emulation={**r.emulation, name: value})


def field(**changes: Any) -> Callable[[c.Counters], c.Counters]:
    return lambda r: dataclasses.replace(r, **changes)


def failing(reading: c.Counters) -> dict[str, Status]:
    checks = judge(Evidence(before=sound(), after=reading), Scope.RUN)
    return {check.name: check.status for check in checks if check.status is not Status.PASS}


def test_a_sound_reading_passes_every_check() -> None:
    assert failing(sound()) == {}


@pytest.mark.parametrize(
    ("broken", "name", "status"),
    [
        (field(meminfo_unaccepted_kib=0), "counters agree (after the workload)", Status.FAIL),
        (field(unaccepted_pages=-1), "counters agree (after the workload)", Status.ERROR),
        (field(node_unaccepted_kib={}), "counters agree (after the workload)", Status.ERROR),
        (field(zones=()), "counters agree (after the workload)", Status.FAIL),
        (field(free_pages=1), "free pages add up (after the workload)", Status.FAIL),
        (
            stat("table_pending", 201),
            "table bounds nr_unaccepted (after the workload)",
            Status.FAIL,
        ),
        (stat("table_pending", 99), "table bounds nr_unaccepted (after the workload)", Status.FAIL),
        (
            stat("table_pending", 100),
            "table bounds nr_unaccepted (after the workload)",
            Status.PASS,
        ),
        (stat("accept_units", 304), "units conserved (after the workload)", Status.FAIL),
        (stat("backend_pending", 196), "units conserved (after the workload)", Status.FAIL),
        (stat("double_accepts", 1), "no double accept, illegal access or divergence", Status.FAIL),
        (
            stat("illegal_accesses", 1),
            "no double accept, illegal access or divergence",
            Status.FAIL,
        ),
        (stat("divergent", 1), "no double accept, illegal access or divergence", Status.FAIL),
    ],
)
def test_what_is_broken_is_named(
    broken: Callable[[c.Counters], c.Counters], name: str, status: Status
) -> None:
    assert failing(broken(sound())).get(name, Status.PASS) is status


def test_a_counter_that_rises_is_a_fail() -> None:
    before = dataclasses.replace(sound(), unaccepted_pages=sound().unaccepted_pages - 1024)
    assert never_rises(before, sound()).status is Status.FAIL


def test_conservation_of_nothing_is_an_error() -> None:
    nothing = dict.fromkeys(sound().emulation, 0)
    reading = dataclasses.replace(sound(), emulation=nothing)
    assert conserved(reading, "now").status is Status.ERROR


def test_a_missing_back_end_figure_is_an_error_not_zero() -> None:
    with pytest.raises(PreconditionError, match="units_marked"):
        conserved(dataclasses.replace(sound(), emulation={"active": 1}), "now")
