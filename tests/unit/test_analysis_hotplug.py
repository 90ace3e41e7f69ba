# SPDX-License-Identifier: MIT
"""Hotplug's metrics and checks: exact where memory moved as it should, FAIL where it did not."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from harness.analysis import hotplug as h
from harness.analysis.accounting import never_rises, table_bounds_counter
from harness.base.status import PreconditionError, Status
from harness.base.units import GIB, MIB, UNIT_SIZE
from harness.record.clocks import ClockPoint, ClockRelation
from harness.record.counters import Counters, Zone
from harness.record.platform_state import parse_pending, pending_units
from harness.record.rundir import plain
from tests.support.hotplug_checks import (
    growth,
    lazy_growth_checks,
    none_accepted,
    unaccepted_again,
)

ZONE = 100 * 1024


def reading(boot: int, plugged: int, free: int, memmap: int = 0, **stats: int) -> Counters:
    """Unaccepted pages of a boot zone and of a plugged one, all free pages, the memory map's."""
    zones = [Zone(0, "DMA32", boot, free, 0)]
    if plugged >= 0:
        zones.append(Zone(0, "Movable", plugged, 0, 0))
    pages = boot + max(plugged, 0)
    return Counters(
        monotonic_ns=1,
        unaccepted_pages=pages,
        free_pages=free,
        meminfo_unaccepted_kib=pages * 4,
        mem_total_kib=1 << 20,
        node_unaccepted_kib={0: pages * 4},
        zones=tuple(zones),
        buddy_pages=0,
        emulation={"units_added": 0, "accept_units": 0, "table_pending": pages // 512, **stats},
        vmstat={"nr_memmap_pages": memmap},
    )


BEFORE = reading(ZONE, -1, ZONE + 9000)
PLUGGED = GIB // 4096
MAP = PLUGGED // 64


def plugged(**changes: Any) -> Counters:
    """1 GiB plugged: 3 blocks taken for its zone, one in the boot zone for the memory map."""
    values = {
        "boot": ZONE - 1024,
        "plugged": PLUGGED - 3 * 1024,
        "free": ZONE + 9000 + PLUGGED - MAP - 50,
        "memmap": MAP,
        "units_added": 512,
        "accept_units": 9,
    }
    return reading(**(values | changes))


def failing(after: Counters) -> set[str]:
    found = growth(BEFORE, after, GIB, 128 * MIB, self_hosted=False)
    return {c.signal for c in lazy_growth_checks(found) if c.status is Status.FAIL}


def test_lazily_plugged_memory_is_explained_to_the_page() -> None:
    found = growth(BEFORE, plugged(), GIB, 128 * MIB, self_hosted=False)
    assert failing(plugged()) == set()
    assert (found.taken, found.fall_elsewhere, found.used) == (3 * 1024, 1024, MAP + 50)
    assert found.rise == found.plugged - found.taken - found.fall_elsewhere
    assert str(found.memmap) in found.describe()


@pytest.mark.parametrize(
    ("changes", "signal"),
    [
        ({"units_added": 511}, "hotplug-added"),
        ({"units_added": 0}, "hotplug-added"),
        ({"plugged": PLUGGED - 3 * 1024 - 1}, "hotplug-rise"),
        ({"plugged": PLUGGED // 2}, "hotplug-rise"),
        ({"plugged": PLUGGED + 1024}, "hotplug-rise"),
        ({"boot": ZONE // 2}, "hotplug-elsewhere"),
        ({"memmap": MAP + 1}, "hotplug-memmap"),
        ({"memmap": 0}, "hotplug-memmap"),
    ],
)
def test_memory_that_went_another_way_is_a_fail(changes: dict[str, int], signal: str) -> None:
    assert signal in failing(plugged(**changes))


def test_a_memory_map_on_the_memory_itself_takes_a_block_of_each_memory_block() -> None:
    after = plugged(boot=ZONE, plugged=PLUGGED - 8 * 1024, free=ZONE + 9000 + PLUGGED)
    found = growth(BEFORE, after, GIB, 128 * MIB, self_hosted=True)
    assert (found.unlisted, found.taken) == (8 * 1024, 0)
    assert all(c.status is Status.PASS for c in lazy_growth_checks(found))


def test_nr_unaccepted_may_rise_by_what_was_added_and_no_more() -> None:
    assert never_rises(BEFORE, plugged()).status is Status.PASS
    assert never_rises(BEFORE, plugged(units_added=100)).status is Status.FAIL


def test_pending_units_that_are_offline_are_not_missed_in_the_counter() -> None:
    offline = reading(ZONE, -1, ZONE, table_pending=ZONE // 512 + 64, pending_offline=64)
    assert table_bounds_counter(offline, "now").status is Status.PASS
    lost = reading(ZONE, -1, ZONE, table_pending=ZONE // 512 + 64, pending_offline=0)
    assert table_bounds_counter(lost, "now").status is Status.FAIL


STEP = h.HotplugStep("plug", "dimm1", 0, 4 * GIB, GIB, 1_000, 5_000, "done")
CLOCKS = ClockRelation((ClockPoint(0, 100, 1),))


def batch(*events: tuple[int, int, int]) -> dict[str, np.ndarray[Any, Any]]:
    columns = np.array(events, dtype=np.int64).reshape(-1, 3).T
    names = ("time_ns", "start_phys", "end_phys")
    return dict(zip(names, columns, strict=True))


def test_figures_of_a_plug_tell_the_add_path_from_allocation() -> None:
    events = batch(
        (500, 4 * GIB, 4 * GIB + UNIT_SIZE),  # before: another device's, at the same place
        (2_100, 4 * GIB, 4 * GIB + UNIT_SIZE),
        (3_000, 0, UNIT_SIZE),  # boot memory
        (9_000, 4 * GIB + GIB - UNIT_SIZE, 4 * GIB + GIB + UNIT_SIZE),  # half of it is the next's
        (20_200, 4 * GIB, 4 * GIB + UNIT_SIZE),  # after it was unplugged
    )
    unplug = structs.replace(STEP, step="unplug", host_start_ns=20_000, host_end_ns=30_000)
    (found,) = h.plug_figures([unplug, STEP], [events], CLOCKS)
    assert found == h.PlugFigures("dimm1", GIB, 4_000, 1_000, 1, 1)


def test_steps_that_failed_or_took_memory_away_have_no_figures() -> None:
    refused = structs.replace(STEP, outcome="no")
    shrunk = structs.replace(STEP, step="resize", size_bytes=0)
    assert h.plug_figures([refused, shrunk], [batch((2_100, 0, UNIT_SIZE))], CLOCKS) == ()
    (untouched,) = h.plug_figures([STEP], [batch()], CLOCKS)
    assert untouched.to_first_accept_ns is None


def test_steps_are_read_back_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "hotplug.jsonl"
    path.write_text(json.dumps(plain(STEP)) + "\n")
    assert h.read_steps(path) == (STEP,)
    for text in ("{}\n", "x\n"):
        path.write_text(text)
        with pytest.raises(PreconditionError):
            h.read_steps(path)


def test_untouched_memory_that_was_accepted_to_be_unplugged_is_a_fail() -> None:
    after = reading(ZONE, -1, ZONE, accept_units=64, units_removed=0)
    before = reading(ZONE, -1, ZONE, accept_units=0, units_removed=0)
    assert none_accepted(before, after, "d").status is Status.FAIL
    fine = reading(ZONE, -1, ZONE, accept_units=0, units_removed=64)
    assert none_accepted(before, fine, "d").status is Status.PASS
    assert none_accepted(before, before, "d").status is Status.ERROR


def test_memory_plugged_again_must_be_pending_but_for_the_spared() -> None:
    assert unaccepted_again("d", 60, 128 * MIB, 4).status is Status.PASS
    assert unaccepted_again("d", 59, 128 * MIB, 4).status is Status.FAIL
    assert unaccepted_again("d", 65, 128 * MIB, 4).status is Status.FAIL


PENDING = "0x1000000-0x1400000 table=1 backend=1\n0x1400000-0x1600000 table=1 backend=0\n"


def test_pending_units_are_counted_within_a_range() -> None:
    runs = parse_pending(PENDING)
    assert pending_units(runs, 0, GIB) == 2
    assert pending_units(runs, 0x1200000, UNIT_SIZE) == 1
    assert pending_units(runs, 0x1400000, GIB) == 0


@pytest.mark.parametrize(
    "text", ["x\n", PENDING + PENDING, "0x100000-0x200000 table=1 backend=1\n"]
)
def test_nonsense_about_pending_units_is_refused(text: str) -> None:
    with pytest.raises(PreconditionError):
        parse_pending(text)


@given(st.text(max_size=200))
def test_any_pending_text_is_read_or_refused(text: str) -> None:
    try:
        parse_pending(text)
    except PreconditionError:
        return
