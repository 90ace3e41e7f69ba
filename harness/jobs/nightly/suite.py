# SPDX-License-Identifier: MIT
"""A functional cell: its tests, and repeats of what failed: flakes told from hard failures."""

from collections.abc import Sequence
from dataclasses import replace

import psutil

from harness.base.spec import GuestSpec
from harness.base.status import Status, worst
from harness.base.units import MIB
from harness.jobs.lab import SuiteJob, describe
from harness.jobs.ledger import Ledger
from harness.record.attempts import SuiteResult
from harness.record.night import Ending, Flake

_PER_GUEST = 512 * MIB
"""Host memory beside the guest's own: QEMU, TCG's translation cache, the test process."""


def workers(spec: GuestSpec, memory: int | None = None, cores: int | None = None) -> int:
    """How many guests like `spec` may run tests at once here: by free memory and cores. A test may
    fill its guest, so all of a guest's memory counts."""
    free = psutil.virtual_memory().available
    free = min(free, memory) if memory is not None else free
    cores = cores or len(psutil.Process().cpu_affinity() or [1])
    return max(1, min(cores, free // (spec.memory + _PER_GUEST)))


def to_repeat(results: Sequence[SuiteResult]) -> tuple[str, ...] | None:
    """Which tests to run again after `results`; () for all of them, None for none. Only what was
    not good the first time, and not yet good since."""
    first = results[0]
    if first.status in (Status.PASS, Status.SKIP, Status.DONE):
        return None
    bad = [t.test for t in first.tests if t.status not in (Status.PASS, Status.SKIP)]
    if not bad:  # pytest did not get to say which
        return () if all(result.status is first.status for result in results) else None
    good = {t.test for r in results[1:] for t in r.tests if t.status is Status.PASS}
    left = tuple(test for test in bad if test not in good)
    return left or None


def run_suite(
    ledger: Ledger, job: SuiteJob, repeats: int, parent: str = "", **owner: str
) -> tuple[list[SuiteResult], Ending]:
    """Run the tests of `job`, then up to `repeats` times those that were not good; what the journal
    has of `owner` already counts."""
    results = list(ledger.journal.read("suite", SuiteResult, **owner))
    tests = to_repeat(results) if results else ()
    while tests is not None and len(results) <= repeats:
        again = replace(job, tests=tests or job.tests)
        results.append(ledger.suite(again, parent, **owner))
        tests = to_repeat(results)
    return results, judge_attempts(results)


def judge_attempts(results: Sequence[SuiteResult]) -> Ending:
    """The verdict of a first attempt and the repeats of what failed in it: the worst failure first,
    flaky tests counted by what they count as."""
    by_test: dict[str, list[tuple[Status, str]]] = {}
    for result in results:
        for test in result.tests:
            by_test.setdefault(test.test, []).append((test.status, describe(test)))
    counted: dict[str, Status] = {}
    causes: dict[str, str] = {}
    flakes = []
    for name, seen in by_test.items():
        statuses = tuple(status for status, _ in seen)
        counted[name] = worst(statuses)
        causes[name] = next(text for status, text in seen if status is counted[name])
        if len(set(statuses)) > 1:
            flake = Flake(name, statuses, causes[name])
            flakes.append(flake)
            counted[name] = flake.counted
    judged = [status for status in counted.values() if status is not Status.SKIP]
    if not judged:
        last = results[-1]
        return Ending(last.status, last.cause, failed=(last.cause,))
    # A pytest that broke off has not run all tests: what it ran cannot make the cell PASS.
    first = results[0]
    broken = [] if first.complete else [first]
    status = worst([*judged, *(Status.MISS for _ in broken)])
    failed = [causes[n] for s in Status for n, c in counted.items() if c is s and _bad(s)]
    failed += [f"not all tests ran: {r.cause}" for r in broken]
    counts = {s.value: sum(c is s for c in counted.values()) for s in Status}
    return Ending(
        status,
        failed[0] if failed else "",
        failed=tuple(failed),
        flakes=tuple(flakes),
        counts={name: count for name, count in counts.items() if count},
    )


def _bad(status: Status) -> bool:
    return status in (Status.FAIL, Status.ERROR, Status.MISS)
