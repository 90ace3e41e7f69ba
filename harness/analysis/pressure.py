# SPDX-License-Identifier: MIT
"""What must not happen while unaccepted memory is left: two readings, and the accepts between."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from harness.base.overhead import Overhead
from harness.base.units import MAX_ORDER_PAGES, UNIT_SIZE
from harness.record.check import Check, check
from harness.record.counters import Counters
from harness.record.trace import AcceptEvent

RECLAIM = ("allocstall_", "pgscan_direct", "pgscan_kswapd", "pgsteal_direct", "oom_kill")
THP = ("thp_fault_fallback", "thp_file_fallback")
COMPACTION = ("compact_stall", "compact_fail")
BLOCK_UNITS = 3
"""Units of one call after boot: a MAX_PAGE_ORDER block and its guard unit (accept_memory(),
drivers/firmware/efi/unaccepted_memory.c, 6.12 and 7.3)."""
_LEAST_CALLS = 8
"""Calls below which waiting is not judged: one collision by chance must not decide."""


@dataclass(frozen=True)
class Bounds:
    """What the guest and the test allow."""

    cost_ns_per_unit: int
    """The emulated platform's cost of a unit; 0: free, or hardware."""
    call_slack_ns: int = 400_000_000
    """Time one accept may take beyond its units' cost. What the host is known to have run instead
    comes on top."""
    reclaim: bool = False
    """The test asks for reclaim itself (a memory cgroup's limit, an OOM)."""
    large_calls: bool = False
    """The test asks for contiguous ranges that are accepted in one call."""


def moved(before: Counters, after: Counters, prefixes: Iterable[str]) -> dict[str, int]:
    """The vmstat events under `prefixes` that rose between two readings, by how much."""
    wanted = tuple(prefixes)
    rises = {
        name: value - before.vmstat.get(name, 0)
        for name, value in after.vmstat.items()
        if name.startswith(wanted)
    }
    return {name: rise for name, rise in rises.items() if rise > 0}


def quiet(
    name: str, signal: str, before: Counters, after: Counters, prefixes: Iterable[str]
) -> Iterator[Check]:
    """No event under `prefixes` while unaccepted memory is left."""
    if after.unaccepted_pages >= MAX_ORDER_PAGES and after.vmstat:
        rises = moved(before, after, prefixes)
        figures = ", ".join(f"{event} +{rise}" for event, rise in sorted(rises.items())) or "none"
        detail = f"{figures}, with {after.unaccepted_pages} pages still unaccepted"
        yield check(name, not rises, detail, signal)


def waiting_bounded(events: Sequence[AcceptEvent], bounds: Bounds) -> Check | None:
    """Only where acceptance has a cost: without one, waiting and accepting are noise."""
    calls = [event for event in events if event.first]
    if not bounds.cost_ns_per_unit or len(calls) < _LEAST_CALLS:
        return None
    waits = sum(event.wait_ns for event in events)
    accepts = sum(event.duration_ns for event in events)
    ratio = waits / accepts if accepts else float("inf")
    detail = (
        f"{waits / 1e6:.1f} ms waited for other CPUs, {accepts / 1e6:.1f} ms accepting, over "
        f"{len(calls)} calls: ratio {ratio:.2f}"
    )
    return check("waiting does not exceed accepting", waits <= accepts, detail, "waiting")


def calls_bounded(events: Sequence[AcceptEvent], bounds: Bounds) -> Check | None:
    """Interrupts are off over a whole call, so its units and its duration are what bounds them."""
    if not events:
        return None
    calls: dict[int, list[AcceptEvent]] = {}
    worst_units, worst_ns, worst = 0, 0, events[0]
    for event in events:
        if event.first:
            calls[event.cpu] = []
        call = calls.setdefault(event.cpu, [])
        call.append(event)
        units, spent = sum(e.units for e in call), sum(e.duration_ns for e in call)
        if units > worst_units:
            worst_units, worst = units, event
        worst_ns = max(worst_ns, spent)
    allowed_ns = bounds.call_slack_ns + max(worst_units, BLOCK_UNITS) * bounds.cost_ns_per_unit
    detail = (
        f"most units in one call {worst_units} (caller {worst.caller}), longest call "
        f"{worst_ns / 1e6:.2f} ms, allowed {allowed_ns / 1e6:.0f} ms"
    )
    small = bounds.large_calls or worst_units <= BLOCK_UNITS
    return check(
        "interrupts off for one block at most", small and worst_ns <= allowed_ns, detail, "irqs-off"
    )


def boot_budget(vcpus: int, table_units: int, overhead: Overhead) -> int:
    """Units that a boot may accept before PID 1: what it uses, and some for each vCPU.

    memmap (16 KiB a unit, 1/64 of RAM in 4 KiB pages of 64 bytes), page tables, per-CPU areas and
    what the kernel allocates for itself: 64 MiB and 2 MiB a vCPU are several times what a kernel
    of this size needs, and a tenth of what is accepted by blocks taken too early. A kernel with
    KASAN has its shadow beside them.
    """
    memmap = table_units // 64
    return 32 + 2 * vcpus + memmap + overhead.taken(table_units * UNIT_SIZE) // UNIT_SIZE


def boot_within_budget(
    counters: Counters,
    vcpus: int,
    overhead: Overhead = Overhead(),  # noqa: B008 - frozen
) -> Check:
    """Units accepted before PID 1 stay within `boot_budget`."""
    accepted = counters.stat("units_before_init")
    budget = boot_budget(vcpus, counters.stat("units_marked"), overhead)
    detail = f"{accepted} units before PID 1, budget {budget} with {vcpus} vCPUs"
    return check("boot accepts what it needs", accepted <= budget, detail, "boot-budget")
