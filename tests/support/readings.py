# SPDX-License-Identifier: MIT
"""Readings of a guest's counters that are consistent."""

from typing import Any

from harness.base.units import PAGE_SIZE
from harness.record.counters import Counters, Zone

FREE = 5000
"""Pages that are free and accepted."""


def reading(unaccepted_pages: int, **fields: Any) -> Counters:
    """One of a guest with a zone and a node; `fields` are what is otherwise with it."""
    pages, kib = unaccepted_pages, unaccepted_pages * PAGE_SIZE // 1024
    consistent: dict[str, Any] = {
        "monotonic_ns": 1,
        "unaccepted_pages": pages,
        "free_pages": pages + FREE,
        "meminfo_unaccepted_kib": kib,
        "mem_total_kib": 1 << 20,
        "node_unaccepted_kib": {0: kib},
        "zones": (Zone(0, "Normal", pages, pages + FREE, 0),),
        "buddy_pages": FREE,
        "emulation": {},
    }
    return Counters(**(consistent | fields))
