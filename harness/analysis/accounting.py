# SPDX-License-Identifier: MIT
"""Invariants of one reading of the counters, and of two: docs/invariants.md lists them."""

from __future__ import annotations

from harness.base.status import Status
from harness.base.units import MAX_ORDER_PAGES, PAGE_SIZE, PAGES_PER_UNIT
from harness.record.check import Check, check
from harness.record.counters import Counters

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
        return Check(name, Status.ERROR, cause, "conservation")
    holds = marked + added - removed == accepted + pending
    return check(name, holds, detail, "conservation")


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
