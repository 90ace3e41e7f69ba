# SPDX-License-Identifier: MIT
"""Invariants of one reading of the counters, and of two: docs/invariants.md lists them."""

from collections.abc import Iterable, Sequence

import numpy as np

from harness.analysis.evidence import Trace
from harness.base.emulation import Route
from harness.base.status import Status
from harness.base.units import MAX_ORDER_PAGES, PAGE_SIZE, PAGES_PER_UNIT, UNIT_SIZE
from harness.record.check import Check, check
from harness.record.counters import Counters
from harness.record.histogram import KernelHistogram
from harness.record.platform_state import PendingRun

_BLOCK_UNITS = MAX_ORDER_PAGES // PAGES_PER_UNIT
_FIRMWARE_EDGES = 4
"""Blocks on the unaccepted list that nothing pending accounts for, at most; see guards_explain."""
_SIGNAL = "conservation"
_KIB_PER_PAGE = PAGE_SIZE // 1024


def counters_agree(counters: Counters, when: str) -> Check:
    """Exact, because nr_unaccepted moves by 1024 pages at a time, beyond any per-CPU stat threshold
    (mm/vmstat.c, 6.12)."""
    vmstat = counters.unaccepted_pages
    meminfo, rest = divmod(counters.meminfo_unaccepted_kib, _KIB_PER_PAGE)
    nodes = sum(counters.node_unaccepted_kib.values()) // _KIB_PER_PAGE
    zones = sum(zone.unaccepted_pages for zone in counters.zones)
    detail = f"pages: vmstat {vmstat}, meminfo {meminfo}, nodes {nodes}, zones {zones}"
    missing = vmstat < 0 or counters.meminfo_unaccepted_kib < 0 or not counters.node_unaccepted_kib
    void = "a counter is missing" if missing else ""
    holds = vmstat == meminfo == nodes == zones and rest == 0 and vmstat % MAX_ORDER_PAGES == 0
    return check(f"counters agree ({when})", holds, detail, "counters", void=void)


def table_bounds_counter(counters: Counters, when: str) -> Check:
    """No equality because of the guard (drivers/firmware/efi/unaccepted_memory.c, 6.12). Units of
    hotplugged memory that the page allocator does not have are pending and nowhere counted."""
    # Kernels with an older emulation patch do not tell: then all has to be counted.
    offline = counters.stat("pending_offline") if "pending_offline" in counters.emulation else 0
    pending = counters.stat("table_pending") - offline
    slack = counters.unaccepted_pages - PAGES_PER_UNIT * pending
    blocks = counters.unaccepted_pages // MAX_ORDER_PAGES
    detail = (
        f"nr_unaccepted {counters.unaccepted_pages} pages, {pending} units pending in the table "
        f"(and {offline} offline): "
        f"difference {slack} pages = {slack / PAGES_PER_UNIT:g} guard units in {blocks} blocks"
    )
    holds = 0 <= slack <= PAGES_PER_UNIT * blocks
    return check(f"table bounds nr_unaccepted ({when})", holds, detail, "table")


def free_adds_up(counters: Counters, when: str) -> Check:
    """The files are read one after the other in a live guest, so per-CPU lists and a little traffic
    are allowed for; a counter that leaks is off by whole blocks."""
    sum_pages = counters.buddy_pages + counters.unaccepted_pages
    allowed = 2 * MAX_ORDER_PAGES + sum(zone.pcp_pages for zone in counters.zones)
    difference = counters.free_pages - sum_pages
    detail = (
        f"pages: free {counters.free_pages}, buddyinfo {counters.buddy_pages} + unaccepted "
        f"{counters.unaccepted_pages}; difference {difference}, allowed {allowed}"
    )
    return check(f"free pages add up ({when})", abs(difference) <= allowed, detail, "free-pages")


VIOLATIONS = {
    "double_accepts": "double-accept",
    "illegal_accesses": "illegal-access",
    "divergent": "divergent",
}


def no_violations(counters: Counters) -> Check:
    """nothing was accepted twice, touched while unaccepted, or seen two ways."""
    found = {name: counters.stat(name) for name in VIOLATIONS}
    detail = ", ".join(f"{name} {value}" for name, value in found.items())
    signal = next((VIOLATIONS[name] for name in found if found[name]), "")
    clean = not any(found.values())
    return check("no double accept, illegal access or divergence", clean, detail, signal)


def conserved(counters: Counters, when: str) -> Check:
    """Units marked at boot and added since = units accepted + units still pending, exactly."""
    marked, accepted = counters.stat("units_marked"), counters.stat("accept_units")
    added, removed = counters.stat("units_added"), counters.stat("units_removed")
    pending = counters.stat("backend_pending")
    detail = (
        f"units: {marked} at boot + {added} added - {removed} removed "
        f"= {accepted} accepted + {pending} pending"
    )
    name = f"units conserved ({when})"
    if marked + added == 0:
        cause = f"nothing was ever unaccepted ({detail})"
        return Check(name, Status.ERROR, cause, _SIGNAL)
    holds = marked + added - removed == accepted + pending
    return check(name, holds, detail, _SIGNAL)


def never_rises(before: Counters, after: Counters) -> Check:
    """nr_unaccepted never rises, but by units that were hot-added meanwhile."""
    first, last = before.unaccepted_pages, after.unaccepted_pages
    added = after.stat("units_added") - before.stat("units_added") if after.emulation else 0
    detail = f"{first} pages, then {last}" + (f"; {added} units hot-added" if added else "")
    holds = last <= first + added * PAGES_PER_UNIT
    return check("nr_unaccepted did not rise", holds, detail, "rises")


def something_to_accept(before: Counters) -> Check:
    """The precondition of a workload in a lazy guest: else it would measure nothing."""
    name = "memory was unaccepted before the workload"
    detail = f"{before.unaccepted_pages} pages"
    if before.unaccepted_pages > 0:
        return check(name, True, detail)
    return Check(name, Status.ERROR, detail, "precondition")


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
