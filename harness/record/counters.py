# SPDX-License-Identifier: MIT
"""One reading of every counter of unaccepted memory a guest has, and what must hold within it.

The invariants are numbered as in docs/invariants.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from harness.base.status import PreconditionError, Status
from harness.base.units import MAX_ORDER_PAGES, PAGE_SIZE, PAGES_PER_UNIT

_KIB_PER_PAGE = PAGE_SIZE // 1024


@dataclass(frozen=True)
class Zone:
    """One zone's row of /proc/zoneinfo, in pages."""

    node: int
    name: str
    unaccepted_pages: int
    free_pages: int
    pcp_pages: int


@dataclass(frozen=True)
class Counters:
    """One quiescent reading. Missing counters are -1, never 0: absence must not look like empty."""

    monotonic_ns: int
    unaccepted_pages: int
    """/proc/vmstat nr_unaccepted."""
    free_pages: int
    """/proc/vmstat nr_free_pages; includes unaccepted pages."""
    meminfo_unaccepted_kib: int
    mem_total_kib: int
    node_unaccepted_kib: Mapping[int, int]
    zones: tuple[Zone, ...]
    buddy_pages: int
    """Sum over /proc/buddyinfo; does not include unaccepted pages."""
    emulation: Mapping[str, int | str]
    """debugfs unaccepted_emulation/stats; empty where the kernel has none."""
    vmstat: Mapping[str, int] = field(default_factory=dict)
    """All of /proc/vmstat."""

    def stat(self, name: str) -> int:
        """One figure of the emulation back end. Raises PreconditionError where it is missing."""
        value = self.emulation.get(name)
        if not isinstance(value, int):
            raise PreconditionError(
                f"the guest's unaccepted_emulation/stats has no number {name!r}",
                hint="is the kernel built with the carried emulation patch?",
            )
        return value


@dataclass(frozen=True)
class Check:
    """One check: what was compared, with which result, and the figures to see why."""

    name: str
    status: Status
    detail: str
    signal: str = ""
    """Short fixed word for the reason a failure of it stands for (docs/suite.md)."""


def check(name: str, holds: bool, detail: str, signal: str = "") -> Check:
    """PASS or FAIL with the figures that decided it."""
    return Check(name, Status.PASS if holds else Status.FAIL, detail, signal)


def counters_agree(counters: Counters, when: str) -> Check:
    """Invariant 1: vmstat = meminfo = sum of nodes = sum of zones, in whole MAX_PAGE_ORDER blocks.

    Exact, because nr_unaccepted moves by 1024 pages at a time, beyond any per-CPU stat threshold
    (mm/vmstat.c, 6.12).
    """
    vmstat = counters.unaccepted_pages
    meminfo, rest = divmod(counters.meminfo_unaccepted_kib, _KIB_PER_PAGE)
    nodes = sum(counters.node_unaccepted_kib.values()) // _KIB_PER_PAGE
    zones = sum(zone.unaccepted_pages for zone in counters.zones)
    detail = f"pages: vmstat {vmstat}, meminfo {meminfo}, nodes {nodes}, zones {zones}"
    name = f"counters agree ({when})"
    if vmstat < 0 or counters.meminfo_unaccepted_kib < 0 or not counters.node_unaccepted_kib:
        return Check(name, Status.ERROR, f"a counter is missing: {detail}", "counters")
    holds = vmstat == meminfo == nodes == zones and rest == 0 and vmstat % MAX_ORDER_PAGES == 0
    return check(name, holds, detail, "counters")


def table_bounds_counter(counters: Counters, when: str) -> Check:
    """Invariant 2: 0 <= nr_unaccepted - 512 * pending units <= 512 * unaccepted blocks.

    Not equality: accepting a block accepts the first unit of the next one too, the guard against
    load_unaligned_zeropad() (drivers/firmware/efi/unaccepted_memory.c, 6.12). Units of hotplugged
    memory that the page allocator does not have are pending and nowhere counted.
    """
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
    """Invariant 3: nr_free_pages = buddyinfo + nr_unaccepted, within what moves between readings.

    The files are read one after the other in a live guest, so per-CPU lists and a little traffic
    are allowed for; a counter that leaks is off by whole blocks.
    """
    sum_pages = counters.buddy_pages + counters.unaccepted_pages
    allowed = 2 * MAX_ORDER_PAGES + sum(zone.pcp_pages for zone in counters.zones)
    difference = counters.free_pages - sum_pages
    detail = (
        f"pages: free {counters.free_pages}, buddyinfo {counters.buddy_pages} + unaccepted "
        f"{counters.unaccepted_pages}; difference {difference}, allowed {allowed}"
    )
    return check(f"free pages add up ({when})", abs(difference) <= allowed, detail, "free-pages")


_VIOLATIONS = {
    "double_accepts": "double-accept",
    "illegal_accesses": "illegal-access",
    "divergent": "divergent",
}


def no_violations(counters: Counters) -> Check:
    """Invariant 4: nothing was accepted twice, touched while unaccepted, or seen two ways."""
    names = ("double_accepts", "illegal_accesses", "divergent")
    found = {name: counters.stat(name) for name in names}
    detail = ", ".join(f"{name} {value}" for name, value in found.items())
    signal = next((_VIOLATIONS[name] for name in names if found[name]), "")
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
    """Invariant 5: nr_unaccepted never rises, but by units that were hot-added meanwhile."""
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


def check_counters(
    before: Counters, after: Counters, *, nothing_marked: bool = False
) -> list[Check]:
    """Every invariant that two quiescent readings of one kernel can show.

    `nothing_marked`: the kernel was started by one that had accepted everything (kexec), so that
    there is nothing of its own to conserve.
    """
    checks = [never_rises(before, after)]
    for counters, when in ((before, "before the workload"), (after, "after the workload")):
        checks += [counters_agree(counters, when), free_adds_up(counters, when)]
        if counters.emulation:
            checks.append(table_bounds_counter(counters, when))
            checks += [] if nothing_marked else [conserved(counters, when)]
    if after.emulation:
        checks.append(no_violations(after))
    return checks


def parse_counters(message: Any) -> Counters:
    """Counters from the JSON of the guest's `cvm counters`. Raises PreconditionError.

    Guest output is untrusted: every field is checked for type and range before it is believed.
    """
    try:
        zones = tuple(
            Zone(
                _int(zone["node"]),
                _word(zone["zone"]),
                _int(zone["nr_unaccepted"]),
                _int(zone["nr_free_pages"]),
                _int(zone["pcp"]),
            )
            for zone in _list(message["zones"])
        )
        nodes = {_int(node["node"]): _int(node["unaccepted_kib"]) for node in message["nodes"]}
        return Counters(
            monotonic_ns=_int(message["monotonic_ns"]),
            unaccepted_pages=_int(message["nr_unaccepted"]),
            free_pages=_int(message["nr_free_pages"]),
            meminfo_unaccepted_kib=_int(message["meminfo_unaccepted_kib"]),
            mem_total_kib=_int(message["mem_total_kib"]),
            node_unaccepted_kib=nodes,
            zones=zones,
            buddy_pages=_int(message["buddy_pages"]),
            emulation={
                _word(name): value if isinstance(value, int) else _word(value)
                for name, value in dict(message["emulation"] or {}).items()
            },
            vmstat={
                _word(name): _int(value) for name, value in dict(message.get("vmstat", {})).items()
            },
        )
    except (KeyError, TypeError, ValueError) as error:
        raise PreconditionError(
            f"the guest's counters could not be read: {type(error).__name__}: {error}"
        ) from error


def counters_from_record(record: Any) -> Counters:
    """Counters as run.json has them. Raises PreconditionError."""
    try:
        return Counters(
            **{
                **record,
                "node_unaccepted_kib": {
                    int(node): _int(kib) for node, kib in record["node_unaccepted_kib"].items()
                },
                "zones": tuple(Zone(**zone) for zone in record["zones"]),
            }
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise PreconditionError(
            f"run.json's counters could not be read: {type(error).__name__}: {error}"
        ) from error


_MAX_ITEMS = 4096


def _int(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not -1 <= value < 1 << 63:
        raise ValueError(f"not a counter: {value!r:.80}")
    return value


def _word(value: object) -> str:
    if not isinstance(value, str) or len(value) > 200 or not value.isprintable():
        raise ValueError(f"not a name: {value!r:.80}")
    return value


def _list(value: object) -> list[Any]:
    if not isinstance(value, list) or len(value) > _MAX_ITEMS:
        raise ValueError(f"not a list of at most {_MAX_ITEMS}: {type(value).__name__}")
    return value
