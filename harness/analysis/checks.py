# SPDX-License-Identifier: MIT
"""Each invariant asked of the evidence: yields nothing where there is nothing to judge."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from harness.analysis import accounting, conservation, platform, pressure, probes, timeline
from harness.analysis.evidence import Evidence
from harness.analysis.host import host_check
from harness.analysis.kexec import kexec_checks
from harness.analysis.pressure import Bounds
from harness.base.spec import AcceptMode
from harness.record.check import Check, check
from harness.record.counters import Counters
from harness.record.trace import AcceptEvent


def agree(e: Evidence) -> Iterator[Check]:
    return (accounting.counters_agree(*reading) for reading in e.readings)


def bounded_by_table(e: Evidence) -> Iterator[Check]:
    return (accounting.table_bounds_counter(c, when) for c, when in e.readings if c.emulation)


def free_adds_up(e: Evidence) -> Iterator[Check]:
    return (accounting.free_adds_up(*reading) for reading in e.readings)


def no_violations(e: Evidence) -> Iterator[Check]:
    if e.after is not None and e.after.emulation:
        yield accounting.no_violations(e.after)


def never_rises(e: Evidence) -> Iterator[Check]:
    if e.before is not None and e.after is not None:
        yield accounting.never_rises(e.before, e.after)
    if e.samples is not None:
        yield timeline.samples_never_rise(e.samples, e.added_units)


def conserved(e: Evidence) -> Iterator[Check]:
    if not e.handed_nothing:
        yield from (accounting.conserved(c, when) for c, when in e.readings if c.emulation)
    if e.first is not None and e.first != e.before and e.first.emulation:
        yield accounting.conserved(e.first, "in the first kernel")


def accounted_for(e: Evidence) -> Iterator[Check]:
    if e.after is None or not e.after.emulation:
        return
    if not e.handed_nothing:  # else what there was to account for is of the kernels before
        if e.trace is not None:
            yield conservation.trace_accounts_for_all(
                e.trace.summary, e.trace.lost, e.after, e.trace.since
            )
        elif e.probed is not None and e.before is not None:
            yield probes.probes_account_for_all(e.probed, e.before, e.after)
    if e.histograms and e.before is not None:
        yield conservation.hist_accounts_for_all(e.histograms, e.before, e.after)


def console_is_clean(reports: Sequence[tuple[str, str]]) -> Iterator[Check]:
    """One failure for each kind of report that was not asked for. (kind, line) of each."""
    name = "console is clean"
    counts = Counter(kind for kind, _ in reports)
    for kind, line in dict(reversed(reports)).items():
        times = f"{counts[kind]} times, the first: " if counts[kind] > 1 else ""
        yield check(name, False, f"{times}{kind}: {line}", kind)
    if not reports:
        yield check(name, True, "no panic, oops, warning, lockup, stall, hung task or OOM kill")


def console(e: Evidence) -> Iterator[Check]:
    if e.console is not None:
        yield from console_is_clean(e.console)


def between(
    compare: Callable[[Counters, Counters, Bounds], Check | None],
) -> Callable[[Evidence], Iterator[Check]]:
    def checks(e: Evidence) -> Iterator[Check]:
        if e.before is not None and e.after is not None and e.bounds is not None:
            found = compare(e.before, e.after, e.bounds)
            if found is not None:
                yield found

    return checks


def of_calls(
    compare: Callable[[Sequence[AcceptEvent], Bounds], Check | None],
) -> Callable[[Evidence], Iterator[Check]]:
    def checks(e: Evidence) -> Iterator[Check]:
        if e.before is not None and e.bounds is not None:
            found = compare(e.calls, e.bounds)
            if found is not None:
                yield found

    return checks


def boot_budget(e: Evidence) -> Iterator[Check]:
    if e.after is not None:
        yield pressure.boot_within_budget(e.after, e.vcpus, e.overhead)


def guards(e: Evidence) -> Iterator[Check]:
    # What hotplug left pending offline is in the table and nowhere counted.
    if e.witness is not None or e.pending is None or e.after is None:
        return
    if not e.after.emulation.get("pending_offline"):
        yield conservation.guards_explain(e.after, e.pending)


def sources(e: Evidence) -> Iterator[Check]:
    if e.probed is not None and e.recorded is not None:
        yield probes.sources_agree(e.probed, e.recorded)


def eager_leaves_nothing(pages_at_init: int | None) -> Check:
    """Nothing is unaccepted once init runs. An unknown count is a FAIL."""
    detail = f"{pages_at_init} pages"
    return check("eager: nothing unaccepted at init", pages_at_init == 0, detail, "eager")


def eager(e: Evidence) -> Iterator[Check]:
    if e.accept_mode is AcceptMode.EAGER:
        yield eager_leaves_nothing(e.unaccepted_at_init_pages)


def host(e: Evidence) -> Iterator[Check]:
    if found := host_check(e.record):
        yield found


def something_to_accept(e: Evidence) -> Iterator[Check]:
    reading = e.first or e.before
    if e.loaded and reading is not None and e.accept_mode is AcceptMode.LAZY:
        yield accounting.something_to_accept(reading)


def next_kernels(e: Evidence) -> Iterator[Check]:
    yield from kexec_checks(e.cycles)


def platform_conserves(e: Evidence) -> Iterator[Check]:
    if e.witness is not None:
        yield from platform.conservation_checks(e.witness, e.pending)


def platform_unharmed(e: Evidence) -> Iterator[Check]:
    if e.witness is not None and e.witness.after is not None:
        yield platform.no_violations(e.witness.after)
        yield platform.nothing_accepted_twice(e.witness.after)


def witnesses_agree(e: Evidence) -> Iterator[Check]:
    if e.witness is not None and e.after is not None:
        readings = (e.before, e.after)
        yield from platform.agreement_checks(e.witness, e.pending, readings, e.events)
