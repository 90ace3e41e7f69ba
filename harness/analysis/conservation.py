# SPDX-License-Identifier: MIT
"""Does the trace account for every unit that the back end accepted?"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from harness.analysis.evidence import Trace
from harness.base.emulation import Route
from harness.base.status import Status
from harness.base.units import MAX_ORDER_PAGES, PAGES_PER_UNIT, UNIT_SIZE
from harness.record.check import Check, check
from harness.record.counters import Counters
from harness.record.histogram import KernelHistogram
from harness.record.platform_state import PendingRun

_BLOCK_UNITS = MAX_ORDER_PAGES // PAGES_PER_UNIT

_FIRMWARE_EDGES = 4
"""Blocks on the unaccepted list that nothing pending accounts for, at most; see guards_explain."""

_SIGNAL = "conservation"


def trace_accounts_for_all(trace: Trace, counters: Counters) -> Check:
    """That nothing was accepted is an ERROR for a guest's whole life, as each boot accepts
    something."""
    accepted, untraced = counters.stat("accept_units"), counters.stat("untraced_units")
    if trace.since is not None:
        accepted -= trace.since.stat("accept_units")
        untraced -= trace.since.stat("untraced_units")
    detail = (
        f"units: {trace.units} in {trace.events} events + {untraced} while the event "
        f"was off (early boot) = {accepted} accepted by the back end; {trace.lost} events lost"
    )
    void = "" if accepted or trace.since else "nothing was accepted"
    if trace.lost:
        void = "void, the trace lost events"
    name = "trace accounts for every accepted unit"
    return check(name, trace.units + untraced == accepted, detail, _SIGNAL, void=void)


def guards_explain(counters: Counters, pending: Iterable[PendingRun]) -> Check:
    """nr_unaccepted and the table differ by the guard, to the unit.

    A MAX_PAGE_ORDER block stays on the unaccepted list until it is taken as a whole, and what is
    accepted of it before that is its first unit, as the guard of the block below. So the blocks
    that have any unit pending are the blocks that nr_unaccepted counts. A block with nothing
    pending right below pending memory can be among them: __free_pages_core() asks
    range_contains_unaccepted_memory(), which looks one unit past a 2 MiB aligned end (6.12, 7.3).

    Firmware's table has edges inside blocks. There what made a block unaccepted can be accepted
    without it: the unit past its end with a free range that ends in the block above, its only
    pending unit as the guard of the block below (OVMF on 7.3: one block below 2 GiB, at boot).
    """
    name = "guard units explain nr_unaccepted to the unit"
    edges = _FIRMWARE_EDGES if counters.emulation.get("route") == Route.EFI else 0
    return _guards(name, counters, pending, counters.stat("table_pending"), edges)


def platform_guards_explain(counters: Counters, pending: Iterable[PendingRun], pages: int) -> Check:
    """The same with what QEMU's platform has pending, `pages` of 4 KiB. The table is firmware's, so
    its edges may lie inside blocks."""
    name = "nr_unaccepted and the platform differ by the guard units"
    return _guards(name, counters, pending, pages // PAGES_PER_UNIT, _FIRMWARE_EDGES)


def _guards(
    name: str, counters: Counters, pending: Iterable[PendingRun], table: int, edges: int
) -> Check:
    spans = [(run.start // UNIT_SIZE, run.end // UNIT_SIZE) for run in pending if run.in_table]
    units = sum(end - start for start, end in spans)
    numbers = [np.arange(start, end, dtype=np.int64) // _BLOCK_UNITS for start, end in spans]
    blocks = np.unique(np.concatenate(numbers or [np.zeros(0, np.int64)]))
    counted = counters.unaccepted_pages // MAX_ORDER_PAGES
    starts = np.array([start for start, _ in spans], dtype=np.int64)
    below = starts[starts % _BLOCK_UNITS == 0] // _BLOCK_UNITS - 1
    borders = int(np.setdiff1d(below, blocks).size)
    guards = len(blocks) * _BLOCK_UNITS - units
    detail = (
        f"nr_unaccepted {counters.unaccepted_pages} pages = {counted} blocks; there are "
        f"{units} units pending in {len(blocks)} blocks, {guards} guard units accepted in them, "
        f"{borders} accepted blocks right below them"
    )
    if edges:
        detail += f"; {edges} more allowed for the edges of firmware's table"
    void = f"void, the table moved on ({table})" if units != table else ""
    return check(name, 0 <= counted - len(blocks) <= borders + edges, detail, "table", void=void)


def hist_accounts_for_all(
    histograms: Sequence[KernelHistogram], before: Counters, after: Counters
) -> Check:
    """Units in the histogram = units that the back end accepted between two readings, exactly."""
    name = "histogram accounts for every unit accepted since it was on"
    durations = next((h for h in histograms if h.field == "duration_ns"), None)
    if durations is None:
        return Check(name, Status.ERROR, "there is no histogram of duration_ns", _SIGNAL)
    accepted = after.stat("accept_units") - before.stat("accept_units")
    units = durations.sums.get("units", 0)
    detail = f"units: {units} in the histogram, {accepted} by the back end"
    void = "" if accepted or units else "nothing was accepted"
    if durations.dropped:
        void = f"void, {durations.dropped} dropped"
    return check(name, units == accepted, detail, _SIGNAL, void=void)
