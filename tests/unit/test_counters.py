# SPDX-License-Identifier: MIT
"""Each invariant holds where it should and turns FAIL or ERROR where a kernel would be wrong."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.base.status import PreconditionError, Status
from harness.record import counters as c

BLOCKS = 100


def sound() -> c.Counters:
    """A consistent reading: 100 unaccepted blocks, 3 without their first unit (the guard)."""
    pages = BLOCKS * 1024
    return c.Counters(
        monotonic_ns=1,
        unaccepted_pages=pages,
        free_pages=pages + 5000,
        meminfo_unaccepted_kib=pages * 4,
        mem_total_kib=1 << 20,
        node_unaccepted_kib={0: pages * 4},
        zones=(c.Zone(0, "DMA32", pages, pages + 5000, 10),),
        buddy_pages=5000,
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
    checks = c.check_counters(sound(), reading)
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
    assert c.never_rises(before, sound()).status is Status.FAIL


def test_conservation_of_nothing_is_an_error() -> None:
    nothing = dict.fromkeys(sound().emulation, 0)
    reading = dataclasses.replace(sound(), emulation=nothing)
    assert c.conserved(reading, "now").status is Status.ERROR


def test_a_missing_back_end_figure_is_an_error_not_zero() -> None:
    with pytest.raises(PreconditionError, match="units_marked"):
        c.conserved(dataclasses.replace(sound(), emulation={"active": 1}), "now")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner),
    max_leaves=20,
)


@given(json_values)
def test_hostile_json_is_refused(message: object) -> None:
    with pytest.raises(PreconditionError):
        c.parse_counters(message)


@given(
    st.sampled_from(["nr_unaccepted", "zones", "nodes", "emulation", "monotonic_ns"]), json_values
)
def test_one_hostile_field_is_read_or_refused(name: str, value: object) -> None:
    message = json.loads(json.dumps(GUEST_MESSAGE))
    message[name] = value
    try:
        reading = c.parse_counters(message)
    except PreconditionError:
        return
    assert isinstance(reading.unaccepted_pages, int)
    assert all(isinstance(zone.unaccepted_pages, int) for zone in reading.zones)


GUEST_MESSAGE = {
    "monotonic_ns": 5,
    "nr_unaccepted": 1024,
    "nr_free_pages": 2048,
    "meminfo_unaccepted_kib": 4096,
    "mem_total_kib": 9999,
    "buddy_pages": 1024,
    "nodes": [{"node": 0, "unaccepted_kib": 4096}],
    "zones": [{"node": 0, "zone": "DMA", "nr_unaccepted": 1024, "nr_free_pages": 9, "pcp": 0}],
    "emulation": {"active": 1, "route": "direct"},
}


def test_a_guest_message_is_read_whole() -> None:
    reading = c.parse_counters(GUEST_MESSAGE)
    assert reading.zones == (c.Zone(0, "DMA", 1024, 9, 0),)
    assert reading.node_unaccepted_kib == {0: 4096}
    assert reading.stat("active") == 1
