# SPDX-License-Identifier: MIT
"""The invariants: one table, by which a whole run and each window of a test are judged. A row is
the function that asks it of the evidence; its docstring is what docs/invariants.md says of it."""

import functools
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

from harness.analysis import accounting, platform, pressure, probes, timeline
from harness.analysis.evidence import Evidence, Scope
from harness.analysis.kexec import kexec_checks
from harness.analysis.reboot import reboot_checks
from harness.base.spec import AcceptMode
from harness.base.status import Status
from harness.record.check import Check, check
from harness.record.console import Kind
from harness.record.run import HostRecord

Ask = Callable[[Evidence], Iterator[Check]]


@dataclass(frozen=True)
class Invariant:
    """One row. Its number is its place in INVARIANTS, from 1; a new row comes last."""

    name: str
    signals: tuple[str, ...]
    """Of the checks that can fail (docs/suite.md)."""
    where: str
    """Targets and circumstances."""
    scopes: tuple[Scope, ...]
    ask: Ask

    @property
    def compares(self) -> str:
        """What has to hold, for the page."""
        return " ".join((self.ask.__doc__ or "").split())


INVARIANTS: list[Invariant] = []
_EMULATED, _UNDER_TCG = "emulated", "tdx and snp under TCG"


def judge(evidence: Evidence, scope: Scope, waived: Collection[str] = ()) -> list[Check]:
    """Every invariant of `scope` that `evidence` can show, but for signals that are `waived`.
    Raises PreconditionError where a figure is missing that the guest's kernel must have."""
    found = [c for row in INVARIANTS if scope in row.scopes for c in row.ask(evidence)]
    return [c for c in found if c.signal not in waived]


def _row(
    name: str,
    signals: Sequence[str],
    where: str = "every target",
    *,
    scopes: tuple[Scope, ...] = (Scope.RUN, Scope.WINDOW),
) -> Callable[[Ask], Ask]:
    def append(ask: Ask) -> Ask:
        INVARIANTS.append(Invariant(name, tuple(signals), where, scopes, ask))
        return ask

    return append


_of_runs = functools.partial(_row, scopes=(Scope.RUN,))
_of_windows = functools.partial(_row, scopes=(Scope.WINDOW,))
_of_boots = functools.partial(_row, scopes=(Scope.BOOT,))


@_row("Counters agree", ["counters"])
def _agree(e: Evidence) -> Iterator[Check]:
    """`nr_unaccepted` in `/proc/vmstat` equals `Unaccepted` in `/proc/meminfo`, the sum over nodes
    and the sum over zones, exactly, and is a multiple of 1024 pages: memory enters and leaves the
    unaccepted lists in blocks of `MAX_PAGE_ORDER`."""
    return (accounting.counters_agree(*reading) for reading in e.readings)


@_row("The table bounds the counter", ["table"], _EMULATED)
def _bounded_by_table(e: Evidence) -> Iterator[Check]:
    """0 ≤ `nr_unaccepted` − 512 × pending units ≤ 512 × unaccepted blocks, pending units of
    hotplugged memory that is offline left aside. It is not an equality: accepting a block also
    accepts the first unit of the next one, so that `load_unaligned_zeropad()` never reads into
    unaccepted memory."""
    return (accounting.table_bounds_counter(c, when) for c, when in e.readings if c.emulation)


@_row("Free memory adds up", ["free-pages"])
def _free_adds_up(e: Evidence) -> Iterator[Check]:
    """`nr_free_pages` = buddyinfo + `nr_unaccepted`, within what moves between the readings."""
    return (accounting.free_adds_up(*reading) for reading in e.readings)


@_row("No violation", [*accounting.VIOLATIONS.values()], _EMULATED)
def _no_violations(e: Evidence) -> Iterator[Check]:
    """No unit accepted twice, none touched while unaccepted, and the kernel's table and the back
    end never disagree."""
    if e.after is not None and e.after.emulation:
        yield accounting.no_violations(e.after)


@_row("It never rises", ["rises", "counters"])
def _never_rises(e: Evidence) -> Iterator[Check]:
    """`nr_unaccepted` grows by no more than was hot-added meanwhile: from the first reading to the
    last, and from each of the sampler's samples to the next, in whole blocks."""
    if e.before is not None and e.after is not None:
        yield accounting.never_rises(e.before, e.after)
    if e.samples is not None:
        yield timeline.samples_never_rise(e.samples, e.added_units)


@_row("Units are conserved", ["conservation"], _EMULATED)
def _conserved(e: Evidence) -> Iterator[Check]:
    """Units marked at boot + added − removed = units the back end accepted + units still pending.
    Exactly. Not asked of a kernel that was started by one that had accepted everything."""
    if not e.handed_nothing:
        yield from (accounting.conserved(c, when) for c, when in e.readings if c.emulation)
    if e.first is not None and e.first != e.before and e.first.emulation:
        yield accounting.conserved(e.first, "in the first kernel")


@_row("The trace accounts for all", ["conservation"], "emulated, where accepts were recorded")
def _accounted_for(e: Evidence) -> Iterator[Check]:
    """Units in accept events + units accepted while the event was off, as in earliest boot, = units
    the back end accepted. Exactly; a trace that lost events voids the check (ERROR). Probes and the
    kernel's own histograms account for all since the first reading."""
    if e.after is None or not e.after.emulation:
        return
    if not e.handed_nothing:  # else what there was to account for is of the kernels before
        if e.trace is not None:
            yield accounting.trace_accounts_for_all(e.trace, e.after)
        elif e.probed is not None and e.before is not None:
            yield probes.probes_account_for_all(e.probed, e.before, e.after)
    if e.histograms and e.before is not None:
        yield accounting.hist_accounts_for_all(e.histograms, e.before, e.after)


@_row("The console is clean", [*Kind])
def _console(e: Evidence) -> Iterator[Check]:
    """No panic, oops, warning, lockup, stall, hung task or OOM kill that the workload or the test
    did not ask for."""
    name = "console is clean"
    reports = e.console or ()
    counts = Counter(kind for kind, _ in reports)
    for kind, line in dict(reversed(reports)).items():
        times = f"{counts[kind]} times, the first: " if counts[kind] > 1 else ""
        yield check(name, False, f"{times}{kind}: {line}", kind)
    if e.console is not None and not reports:
        yield check(name, True, "no panic, oops, warning, lockup, stall, hung task or OOM kill")


def _quiet(
    e: Evidence, what: str, signal: str, events: Sequence[str], *, asked: bool = False
) -> Iterator[Check]:
    """`asked`: asked also where the test asks for reclaim itself."""
    if e.before is None or e.after is None or e.bounds is None or (e.bounds.reclaim and not asked):
        return
    name = f"no {what} while memory is unaccepted"
    yield from pressure.quiet(name, signal, e.before, e.after, events)


@_of_windows("No reclaim", ["reclaim"])
def _no_reclaim(e: Evidence) -> Iterator[Check]:
    """No reclaim, allocation stall or OOM kill while a block is unaccepted, unless the test asks
    for it."""
    return _quiet(e, "reclaim", "reclaim", pressure.RECLAIM)


@_of_windows("No huge page falls back", ["thp-fallback"])
def _no_thp_fallback(e: Evidence) -> Iterator[Check]:
    """No fault for a huge page falls back to small ones while a block is unaccepted."""
    return _quiet(e, "THP fallback", "thp-fallback", pressure.THP, asked=True)


@_of_windows("No compaction stall", ["compaction"])
def _no_compaction(e: Evidence) -> Iterator[Check]:
    """No task stalls in compaction while a block is unaccepted, unless the test asks for
    reclaim."""
    return _quiet(e, "compaction stall", "compaction", pressure.COMPACTION)


@_of_windows(
    "Waiting is bounded", ["waiting"], "emulated with a cost model, where accepts are traced"
)
def _waiting_bounded(e: Evidence) -> Iterator[Check]:
    """Time that calls wait for other CPUs does not exceed time accepting. Asked where acceptance
    has a cost and at least 8 calls were made."""
    if e.before is not None and e.bounds is not None:
        yield from filter(None, [pressure.waiting_bounded(e.calls, e.bounds)])


@_of_windows("Calls are bounded", ["irqs-off"], "where accepts are traced")
def _calls_bounded(e: Evidence) -> Iterator[Check]:
    """Interrupts stay off for one block and its guard: three units a call, and 400 ms beyond their
    cost and what the host kept the vCPU waiting. A test may ask for larger calls."""
    if e.before is not None and e.bounds is not None:
        yield from filter(None, [pressure.calls_bounded(e.calls, e.bounds)])


@_of_boots("Boot accepts what it needs", ["boot-budget"], _EMULATED)
def _boot_budget(e: Evidence) -> Iterator[Check]:
    """Before PID 1: 32 units, 2 for each vCPU, the memory of the page structs, and what KASAN and
    the like take."""
    if e.after is not None:
        yield pressure.boot_within_budget(e.after, e.vcpus, e.overhead)


@_of_runs("Guards explain the counter", ["table"], "emulated, nothing pending in offline memory")
def _guards(e: Evidence) -> Iterator[Check]:
    """Number 2, to the unit: the blocks that have a unit pending are the blocks that
    `nr_unaccepted` counts, but for accepted ones right below pending memory, and at most four at
    the edges of a table that firmware made."""
    # What hotplug left pending offline is in the table and nowhere counted.
    if e.witness is not None or e.pending is None or e.after is None:
        return
    if not e.after.emulation.get("pending_offline"):
        yield accounting.guards_explain(e.after, e.pending)


@_of_runs("Probes and trace event agree", ["conservation"], "runs that recorded both")
def _sources(e: Evidence) -> Iterator[Check]:
    """Every range that one of them saw while the probes were on, the other saw too. Losses on
    either side void it (ERROR)."""
    if e.probed is not None and e.recorded is not None:
        yield probes.sources_agree(e.probed, e.recorded)


@_of_runs("Eager leaves nothing", ["eager"], "every target, `--accept eager`")
def _eager(e: Evidence) -> Iterator[Check]:
    """Nothing is unaccepted when init starts."""
    if e.accept_mode is AcceptMode.EAGER:
        pages = e.record.boot.init.nr_unaccepted_pages  # -1: not known, which is a FAIL as well
        detail = f"{pages} pages" if pages >= 0 else "init reported no count"
        yield check("eager: nothing unaccepted at init", pages == 0, detail, "eager")


@_of_runs("The next kernel gets its memory", ["kexec"], "every target, where a workload used kexec")
def _next_kernels(e: Evidence) -> Iterator[Check]:
    """After each kexec the next kernel has all of the memory, finds no more unaccepted than was
    left, and after a drain nothing was left."""
    yield from kexec_checks(e.cycles)


@_of_runs("A reboot starts anew", ["reboot"], "every target, where a workload rebooted the guest")
def _reboots(e: Evidence) -> Iterator[Check]:
    """After each reboot the guest has all of its memory, and nothing of it is accepted already."""
    yield from reboot_checks(e.reboots)


def host_check(watch: HostRecord | None) -> Check | None:
    """FAIL for a report of the host's kernel, MISS where the host ran out of memory.

    None where nothing was watched.
    """
    if watch is None:
        return None
    name = "host kernel is clean"
    if watch.kernel_log != "read":
        return Check(name, Status.SKIP, f"not visible to this user: {watch.kernel_log}")
    ours = [splat for splat in watch.splats if splat.kind != Kind.OOM]
    if ours:
        first = f"{ours[0].kind}: {ours[0].line}"
        return Check(name, Status.FAIL, f"{len(ours)} reports, the first: {first}")
    if watch.splats:
        return Check(name, Status.MISS, f"host out of memory: {watch.splats[0].line}")
    return Check(name, Status.PASS, "no panic, oops, warning, lockup, stall or OOM kill")


@_of_runs("The host's kernel is clean", [], "tdx and snp, where the host's log can be read")
def _host(e: Evidence) -> Iterator[Check]:
    """No report of trouble by the host's kernel during the run; that it ran out of memory is
    MISS."""
    yield from filter(None, [host_check(e.record.host_watch)])


@_of_runs(
    "There was something to accept",
    ["precondition"],
    "every target, `--accept lazy`, with a workload",
)
def _something_to_accept(e: Evidence) -> Iterator[Check]:
    """Memory was unaccepted before the workload, or there was nothing to see (ERROR)."""
    reading = e.first or e.before
    if e.loaded and reading is not None and e.accept_mode is AcceptMode.LAZY:
        yield accounting.something_to_accept(reading)


@_row("The platform's pages are conserved", ["conservation"], _UNDER_TCG)
def _platform_conserves(e: Evidence) -> Iterator[Check]:
    """Pages pending at launch + made pending since = accepted + converted + still pending, by
    QEMU's statistics and, each for itself, by its event stream (of runs); a stream that lost
    records voids the check (ERROR). What is pending is whole units of 2 MiB."""
    if e.witness is None:
        return
    if e.witness.after is None or e.pending is None:
        cause = "the platform was not read after the workload"
        yield Check("platform: pages conserved", Status.ERROR, cause, "conservation")
        return
    yield platform.ledger_balances(e.witness.after)
    if e.witness.streamed:
        yield platform.stream_agrees(e.witness.stream, e.witness.after)
    yield platform.pages_in_units(e.pending, e.witness.after)


@_row("The platform saw nothing illegal", ["illegal-access", "double-accept"], _UNDER_TCG)
def _platform_unharmed(e: Evidence) -> Iterator[Check]:
    """No access that the platform forbids, whether it was let pass (`on-violation`) or not, and no
    acceptance of what was accepted already."""
    if e.witness is not None and e.witness.after is not None:
        yield platform.no_violations(e.witness.after)
        yield platform.nothing_accepted_twice(e.witness.after)


@_row("Witnesses agree", ["table", "conservation"], _UNDER_TCG)
def _witnesses_agree(e: Evidence) -> Iterator[Check]:
    """`nr_unaccepted` and the pages that QEMU has pending differ by exactly the guard units; units
    in the kernel's accept events = units that left pending by QEMU meanwhile. Read when nothing is
    changing (ERROR where something always is)."""
    if e.witness is None or e.after is None:
        return
    first, last = e.witness.before, e.witness.after
    if not e.witness.at_rest:
        cause = "pages changed state during each reading of the counters"
        yield Check("witnesses compared at rest", Status.ERROR, cause, "conservation")
    elif last is not None and e.pending is not None:
        yield accounting.platform_guards_explain(e.after, e.pending, last.pages.pending)
        if e.before is None or first is None:
            return
        if e.events is not None:
            units = platform.units_between(e.events, (e.before, e.after))
            yield platform.kernel_events_agree(units, e.events.facts.lost_after_boot, first, last)
        elif e.trace is not None and e.trace.since is not None:
            yield platform.kernel_events_agree(e.trace.units, e.trace.lost, first, last)
