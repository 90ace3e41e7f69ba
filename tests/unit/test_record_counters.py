# SPDX-License-Identifier: MIT
"""Counters of a guest are read whole or refused."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.base.status import PreconditionError
from harness.record import counters as c

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
