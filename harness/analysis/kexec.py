# SPDX-License-Identifier: MIT
"""What a kernel started by kexec has to have of the memory of the one before; and what LKVS' cases
assert, judged so that absence never passes."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from harness.base.reader import FileType, believing, convert
from harness.base.status import Status, worst
from harness.base.units import KIB, MIB, PAGE_SIZE, format_size
from harness.record.check import Check, check
from harness.record.counters import Counters

_Cycle = TypeVar("_Cycle", bound=FileType)
_SIGNAL = "kexec"
_SLOWER = 1.15
"""LKVS' own margin over its constants."""
SIZE_MARGIN_KIB = 16 * MIB // KIB
"""By which MemTotal may differ: what the kernel reserves for itself depends on where it lies."""


class KexecCycle(FileType, frozen=True):
    """One kexec, with what both kernels counted. Pages of 4 KiB; -1: not counted."""

    took_ns: int
    """From `kexec -e` to the first command over SSH in the next kernel, host clock."""
    route: str
    """Of the emulated platform; empty on hardware. On the direct route each kernel makes a table of
    its own (docs/emulation.md); else the table is handed over."""
    drained_to_pages: int | None
    """nr_unaccepted once everything was to be accepted; None: that was not asked for."""
    mem_total_kib: int
    next_mem_total_kib: int
    unaccepted_pages: int
    left_pages: int
    """nr_unaccepted when the next kernel was loaded and everything before it was done."""
    next_at_init_pages: int
    next_unaccepted_pages: int


def reported_cycles(
    reports: Sequence[Mapping[str, Any]], workload: str, kind: type[tuple[_Cycle, ...]]
) -> tuple[_Cycle, ...]:
    """All cycles that reports of `workload` tell of. Raises PreconditionError."""
    found: list[_Cycle] = []
    for report in reports:
        if report.get("workload") == workload:
            with believing():
                found += convert(report.get("cycles"), kind, "a report's cycles")
    return tuple(found)


def kexec_cycles(reports: Sequence[Mapping[str, Any]]) -> tuple[KexecCycle, ...]:
    """All cycles that workload reports tell of. Raises PreconditionError."""
    return reported_cycles(reports, "kexec", tuple[KexecCycle, ...])


def found_nothing_unaccepted(first: Counters, last: Counters) -> bool:
    """Whether the last of several kernels was handed a table with nothing pending in it; of each
    its first reading, which are equal where there was only one kernel."""
    return first != last and bool(last.emulation) and last.stat("units_marked") == 0


def kexec_checks(cycles: Sequence[KexecCycle]) -> list[Check]:
    """Sizes are right, what was drained is, and no kernel finds more unaccepted than was left."""
    if not cycles:
        return []
    checks = [_sizes(cycles), _handed_over(cycles)]
    drained = [cycle.drained_to_pages for cycle in cycles if cycle.drained_to_pages is not None]
    if drained:
        detail = f"nr_unaccepted before each kexec: {', '.join(map(str, drained))} pages"
        name = "kexec: nothing unaccepted after the drain"
        checks.append(check(name, not any(drained), detail, _SIGNAL))
    return checks


def _sizes(cycles: Sequence[KexecCycle]) -> Check:
    name = "kexec: every kernel has all of the memory"
    if any(min(cycle.mem_total_kib, cycle.next_mem_total_kib) <= 0 for cycle in cycles):
        return Check(name, Status.ERROR, "a kernel does not tell its MemTotal", _SIGNAL)
    most = max(abs(cycle.next_mem_total_kib - cycle.mem_total_kib) for cycle in cycles)
    sizes = [cycles[0].mem_total_kib, *(cycle.next_mem_total_kib for cycle in cycles)]
    detail = (
        f"MemTotal {' → '.join(map(str, sizes))} KiB, allowed ±{format_size(SIZE_MARGIN_KIB * KIB)}"
    )
    return check(name, most <= SIZE_MARGIN_KIB, detail, _SIGNAL)


def _handed_over(cycles: Sequence[KexecCycle]) -> Check:
    """What is unaccepted at the next kernel's init is no more than was left to it."""
    name = "kexec: the next kernel knows what is unaccepted"
    detail = "nr_unaccepted left → found at init: " + ", ".join(
        f"{cycle.left_pages} → {cycle.next_at_init_pages}" for cycle in cycles
    )
    void = "" if cycles[0].unaccepted_pages else "nothing was unaccepted"
    if any(cycle.unaccepted_pages < 0 or cycle.next_at_init_pages < 0 for cycle in cycles):
        void = "a kernel does not count"
    return check(name, all(map(_plausible, cycles)), detail, _SIGNAL, void=void)


def _plausible(cycle: KexecCycle) -> bool:
    if cycle.route == "direct":
        return cycle.next_at_init_pages > 0
    if cycle.left_pages == 0:
        return cycle.next_at_init_pages == 0
    return 0 < cycle.next_at_init_pages <= cycle.left_pages


def lkvs_check(
    facts: Mapping[str, Any],
    before: Counters,
    after: Counters,
    load_ns: int,
    cycles: Sequence[KexecCycle] = (),
) -> Check:
    """The verdict of one case, after `load_ns` of guest time. In KEXEC cases `before` is of the
    first kernel, `after` of the last. ERROR where the feature is missing, or nothing was
    unaccepted."""
    case = str(facts.get("case"))
    name = f"LKVS {case}"
    config = facts.get("config")
    if case == "KCONFIG":
        if config == "unknown":
            return Check(name, Status.ERROR, "the kernel does not tell its configuration", "config")
        return check(name, config == "y", f"CONFIG_UNACCEPTED_MEMORY={config}", "config")
    missing = _missing(case, config, before)
    if missing:
        return Check(name, Status.ERROR, missing, "precondition")
    fell = before.unaccepted_pages - after.unaccepted_pages
    counts = f"nr_unaccepted {before.unaccepted_pages} → {after.unaccepted_pages} pages"
    if case == "NEG":
        zero = before.unaccepted_pages == 0 == after.unaccepted_pages
        return check(name, zero and before.meminfo_unaccepted_kib == 0, counts, "eager")
    if case == "CAL":
        kib = after.meminfo_unaccepted_kib
        same = after.unaccepted_pages * PAGE_SIZE == kib << 10
        return check(name, same, f"{after.unaccepted_pages} pages, {kib} KiB", "counters")
    if case.startswith("T_"):
        return _drained(name, facts, after, load_ns)
    if case.startswith("KEXEC"):
        return _lkvs_kexec(name, cycles)
    if case == "FUNC":
        return check(name, fell > 0, counts, "not-accepted")
    status = facts.get("exit_status", 0)
    return check(name, status == 0, f"exit status {status}; {counts}", "stress")


def _missing(case: str, config: object, before: Counters) -> str:
    if config == "n":
        return "the kernel has not got CONFIG_UNACCEPTED_MEMORY"
    if before.unaccepted_pages < 0 or before.meminfo_unaccepted_kib < 0:
        return "the kernel does not count unaccepted memory"
    if case == "NEG":
        # Else a kernel that never had anything to accept would pass.
        marked = before.emulation.get("units_marked", 0)
        return "" if marked else "nothing was ever unaccepted, so eager acceptance shows nothing"
    return "" if before.unaccepted_pages > 0 else "nothing was unaccepted to begin with"


def _lkvs_kexec(name: str, cycles: Sequence[KexecCycle]) -> Check:
    """As bad as the worst of what is asked of each kexec."""
    found = kexec_checks(cycles)
    if not found:
        return Check(name, Status.ERROR, "no kernel was started by kexec", "kexec")
    status = worst(check.status for check in found)
    bad = [f"{check.name}: {check.detail}" for check in found if check.status is status]
    detail = f"{len(cycles)} kernels started by kexec" if status is Status.PASS else "; ".join(bad)
    return Check(name, status, detail, "kexec")


def _drained(name: str, facts: Mapping[str, Any], after: Counters, load_ns: int) -> Check:
    baseline = facts.get("baseline_s", 0)
    seconds = load_ns / 1e9
    detail = f"{after.unaccepted_pages} pages left after {seconds:.3g} s"
    in_time = True
    if isinstance(baseline, int) and baseline > 0:
        in_time = seconds <= _SLOWER * baseline
        detail += f", allowed {_SLOWER * baseline:.3g} s"
    return check(name, after.unaccepted_pages == 0 and in_time, detail, "not-accepted")
