# SPDX-License-Identifier: MIT
"""What LKVS' acceptance cases assert, judged so that absence never passes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from harness.analysis.kexec import KexecCycle, kexec_checks
from harness.base.status import Status, worst
from harness.base.units import PAGE_SIZE
from harness.record.check import Check, check
from harness.record.counters import Counters

_SLOWER = 1.15
"""LKVS' own margin over its constants."""


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
        return _kexec(name, cycles)
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


def _kexec(name: str, cycles: Sequence[KexecCycle]) -> Check:
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
