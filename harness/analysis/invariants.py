# SPDX-License-Identifier: MIT
"""The invariants: one table, by which a whole run and each window of a test are judged.

docs/invariants.md is made of it (harness/report/invariant_reference.py).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

from harness.analysis import (
    accounting,
    checks,
    conservation,
    platform,
    pressure,
    probes,
    timeline,
)
from harness.analysis.evidence import Evidence, Scope
from harness.analysis.host import host_check
from harness.analysis.kexec import kexec_checks
from harness.record.check import Check
from harness.record.console import Kind


@dataclass(frozen=True)
class Invariant:
    """One row. Its number is its place in INVARIANTS, from 1; a new row comes last."""

    name: str
    signals: tuple[str, ...]
    """Of the checks that can fail (docs/suite.md)."""
    compares: str
    """What has to hold, for the page."""
    where: str
    """Targets and circumstances."""
    scopes: tuple[Scope, ...]
    judged_by: tuple[Callable[..., object], ...]
    """The functions that compare; for the page."""
    ask: Callable[[Evidence], Iterator[Check]]
    """Yields nothing where there is nothing to judge."""


def judge(evidence: Evidence, scope: Scope, waived: Collection[str] = ()) -> list[Check]:
    """Every invariant of `scope` that `evidence` can show, but for signals that are `waived`.

    Raises PreconditionError where a figure is missing that the guest's kernel must have.
    """
    found = [c for row in INVARIANTS if scope in row.scopes for c in row.ask(evidence)]
    return [c for c in found if c.signal not in waived]


_EVERY, _EMULATED = "every target", "emulated"
_UNDER_TCG = "tdx and snp under TCG"
_BOTH = (Scope.RUN, Scope.WINDOW)

INVARIANTS: tuple[Invariant, ...] = (
    Invariant(
        "Counters agree",
        ("counters",),
        "`nr_unaccepted` in `/proc/vmstat` equals `Unaccepted` in `/proc/meminfo`, the sum over "
        "nodes and the sum over zones, exactly, and is a multiple of 1024 pages: memory enters "
        "and leaves the unaccepted lists in blocks of `MAX_PAGE_ORDER`.",
        _EVERY,
        _BOTH,
        (accounting.counters_agree,),
        checks.agree,
    ),
    Invariant(
        "The table bounds the counter",
        ("table",),
        "0 ≤ `nr_unaccepted` − 512 × pending units ≤ 512 × unaccepted blocks, pending units of "
        "hotplugged memory that is offline left aside. It is not an equality: accepting a block "
        "also accepts the first unit of the next one, so that `load_unaligned_zeropad()` never "
        "reads into unaccepted memory.",
        _EMULATED,
        _BOTH,
        (accounting.table_bounds_counter,),
        checks.bounded_by_table,
    ),
    Invariant(
        "Free memory adds up",
        ("free-pages",),
        "`nr_free_pages` = buddyinfo + `nr_unaccepted`, within what moves between the readings.",
        _EVERY,
        _BOTH,
        (accounting.free_adds_up,),
        checks.free_adds_up,
    ),
    Invariant(
        "No violation",
        tuple(accounting.VIOLATIONS.values()),
        "No unit accepted twice, none touched while unaccepted, and the kernel's table and the "
        "back end never disagree.",
        _EMULATED,
        _BOTH,
        (accounting.no_violations,),
        checks.no_violations,
    ),
    Invariant(
        "It never rises",
        ("rises", "counters"),
        "`nr_unaccepted` grows by no more than was hot-added meanwhile: from the first reading "
        "to the last, and from each of the sampler's samples to the next, in whole blocks.",
        _EVERY,
        _BOTH,
        (accounting.never_rises, timeline.samples_never_rise),
        checks.never_rises,
    ),
    Invariant(
        "Units are conserved",
        ("conservation",),
        "Units marked at boot + added − removed = units the back end accepted + units still "
        "pending. Exactly. Not asked of a kernel that was started by one that had accepted "
        "everything.",
        _EMULATED,
        _BOTH,
        (accounting.conserved,),
        checks.conserved,
    ),
    Invariant(
        "The trace accounts for all",
        ("conservation",),
        "Units in accept events + units accepted while the event was off, as in earliest boot, "
        "= units the back end accepted. Exactly; a trace that lost events voids the check "
        "(ERROR). Probes and the kernel's own histograms account for all since the first "
        "reading.",
        "emulated, where accepts were recorded",
        _BOTH,
        (
            conservation.trace_accounts_for_all,
            probes.probes_account_for_all,
            conservation.hist_accounts_for_all,
        ),
        checks.accounted_for,
    ),
    Invariant(
        "The console is clean",
        tuple(kind.value for kind in Kind),
        "No panic, oops, warning, lockup, stall, hung task or OOM kill that the workload or the "
        "test did not ask for.",
        _EVERY,
        _BOTH,
        (checks.console_is_clean,),
        checks.console,
    ),
    Invariant(
        "No reclaim",
        ("reclaim",),
        "No reclaim, allocation stall or OOM kill while a block is unaccepted, unless the test "
        "asks for it.",
        _EVERY,
        (Scope.WINDOW,),
        (pressure.no_reclaim,),
        checks.between(pressure.no_reclaim),
    ),
    Invariant(
        "No huge page falls back",
        ("thp-fallback",),
        "No fault for a huge page falls back to small ones while a block is unaccepted.",
        _EVERY,
        (Scope.WINDOW,),
        (pressure.no_thp_fallback,),
        checks.between(lambda before, after, _: pressure.no_thp_fallback(before, after)),
    ),
    Invariant(
        "No compaction stall",
        ("compaction",),
        "No task stalls in compaction while a block is unaccepted, unless the test asks for "
        "reclaim.",
        _EVERY,
        (Scope.WINDOW,),
        (pressure.no_compaction,),
        checks.between(pressure.no_compaction),
    ),
    Invariant(
        "Waiting is bounded",
        ("waiting",),
        "Time that calls wait for other CPUs does not exceed time accepting. Asked where "
        "acceptance has a cost and at least 8 calls were made.",
        "emulated with a cost model, where accepts are traced",
        (Scope.WINDOW,),
        (pressure.waiting_bounded,),
        checks.of_calls(pressure.waiting_bounded),
    ),
    Invariant(
        "Calls are bounded",
        ("irqs-off",),
        "Interrupts stay off for one block and its guard: three units a call, and 400 ms beyond "
        "their cost and what the host kept the vCPU waiting. A test may ask for larger calls.",
        "where accepts are traced",
        (Scope.WINDOW,),
        (pressure.calls_bounded,),
        checks.of_calls(pressure.calls_bounded),
    ),
    Invariant(
        "Boot accepts what it needs",
        ("boot-budget",),
        "Before PID 1: 32 units, 2 for each vCPU, the memory of the page structs, and what "
        "KASAN and the like take.",
        _EMULATED,
        (Scope.BOOT,),
        (pressure.boot_within_budget,),
        checks.boot_budget,
    ),
    Invariant(
        "Guards explain the counter",
        ("table",),
        "Number 2, to the unit: the blocks that have a unit pending are the blocks that "
        "`nr_unaccepted` counts, but for accepted ones right below pending memory, and at most "
        "four at the edges of a table that firmware made.",
        "emulated, nothing pending in offline memory",
        (Scope.RUN,),
        (conservation.guards_explain,),
        checks.guards,
    ),
    Invariant(
        "Probes and trace event agree",
        ("conservation",),
        "Every range that one of them saw while the probes were on, the other saw too. Losses "
        "on either side void it (ERROR).",
        "runs that recorded both",
        (Scope.RUN,),
        (probes.sources_agree,),
        checks.sources,
    ),
    Invariant(
        "Eager leaves nothing",
        ("eager",),
        "Nothing is unaccepted when init starts.",
        "every target, `--accept eager`",
        (Scope.RUN,),
        (checks.eager_leaves_nothing,),
        checks.eager,
    ),
    Invariant(
        "The next kernel gets its memory",
        ("kexec",),
        "After each kexec the next kernel has all of the memory, finds no more unaccepted than "
        "was left, and after a drain nothing was left.",
        "every target, where a workload used kexec",
        (Scope.RUN,),
        (kexec_checks,),
        checks.next_kernels,
    ),
    Invariant(
        "The host's kernel is clean",
        (),
        "No report of trouble by the host's kernel during the run; that it ran out of memory is "
        "MISS.",
        "tdx and snp, where the host's log can be read",
        (Scope.RUN,),
        (host_check,),
        checks.host,
    ),
    Invariant(
        "There was something to accept",
        ("precondition",),
        "Memory was unaccepted before the workload, or there was nothing to see (ERROR).",
        "every target, `--accept lazy`, with a workload",
        (Scope.RUN,),
        (accounting.something_to_accept,),
        checks.something_to_accept,
    ),
    Invariant(
        "The platform's pages are conserved",
        ("conservation",),
        "Pages pending at launch + made pending since = accepted + converted + still pending, by "
        "QEMU's statistics and, each for itself, by its event stream; a stream that lost records "
        "voids the check (ERROR). What is pending is whole units of 2 MiB.",
        _UNDER_TCG,
        (Scope.RUN,),
        (platform.ledger_balances, platform.stream_agrees, platform.pages_in_units),
        checks.platform_conserves,
    ),
    Invariant(
        "The platform saw nothing illegal",
        ("illegal-access", "double-accept"),
        "No access that the platform forbids, whether it was let pass (`on-violation`) or not, "
        "and no acceptance of what was accepted already.",
        _UNDER_TCG,
        (Scope.RUN,),
        (platform.no_violations, platform.nothing_accepted_twice),
        checks.platform_unharmed,
    ),
    Invariant(
        "Witnesses agree",
        ("table", "conservation"),
        "`nr_unaccepted` and the pages that QEMU has pending differ by exactly the guard units; "
        "units in the kernel's accept events = units that left pending by QEMU meanwhile. Read "
        "when nothing is changing (ERROR where something always is).",
        _UNDER_TCG,
        (Scope.RUN,),
        (conservation.platform_guards_explain, platform.kernel_events_agree),
        checks.witnesses_agree,
    ),
)
