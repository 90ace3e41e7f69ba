# SPDX-License-Identifier: MIT
"""Mutation testing of the suite, on one kernel that has all bugs in it: with a bug on, its tests
must FAIL for it; with all off, they must not."""

import os
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from harness.base.guarded import run_guarded
from harness.base.status import HostError, Status
from harness.jobs.catalogue.entry import BugEntry, Catch
from harness.kernel.kernel import Kernel
from harness.kernel.version import Version
from harness.record.attempts import CaseVerdict
from harness.suite.judge import parse_verdicts

DEADLINE_S = 900
"""For one pytest; each guest in it has deadlines of its own."""
_TOLD = {0, 1, 3, 69}
"""Exit codes of a pytest that got to judge (README.md)."""

Notify = Callable[[str], None]


@dataclass(frozen=True)
class Sighting:
    """What one test's verdict says about the bug that it should catch."""

    verdict: CaseVerdict
    caught: bool
    signal: str
    """The reason by which it was caught; else what kept it from that."""


def judge(catch: Catch, verdict: CaseVerdict) -> Sighting:
    """A bug is caught by FAIL for its own reason: any other FAIL is as good as none. A defect that
    is expected on this kernel is set aside in the verdict; its signal still shows."""
    if verdict.status is not Status.FAIL and not verdict.expected:
        return Sighting(verdict, False, f"{verdict.status.value}, not FAIL")
    if hits := verdict.signals & catch.signals:
        return Sighting(verdict, True, ", ".join(sorted(hits)))
    if verdict.status is Status.FAIL and catch.cause and re.search(catch.cause, verdict.cause):
        return Sighting(verdict, True, verdict.cause)
    given = ", ".join(sorted(verdict.signals)) or verdict.cause or "no reason"
    return Sighting(verdict, False, f"FAIL for another reason: {given}")


def with_test(verdicts: Iterable[CaseVerdict], test: str) -> tuple[CaseVerdict, ...]:
    """Those of `test`; one without parameters stands for all it has."""
    return tuple(
        v for v in verdicts if v.test == test or (v.test.startswith(test + "[") and "[" not in test)
    )


@dataclass(frozen=True)
class BugResult:
    entry: BugEntry
    judged: tuple[Sighting, ...]
    """With the bug on, one for each test that ran."""
    clean: tuple[CaseVerdict, ...]
    """The same tests with it off; empty if they were not run."""
    seconds: float
    """Wall time with the bug on."""

    @property
    def caught(self) -> bool:
        return any(judged.caught for judged in self.judged)

    @property
    def false_alarms(self) -> tuple[CaseVerdict, ...]:
        """Tests that do not pass, or have the bug's signal, although it is off. What such a test
        says with the bug on is worth nothing."""
        return tuple(
            verdict
            for verdict in self.clean
            if verdict.status not in (Status.PASS, Status.SKIP)
            or any(judge(catch, verdict).caught for catch in self.entry.catches)
        )

    @property
    def status(self) -> Status:
        """PASS: caught, and green with the switch off. An entry known as uncaught is SKIP. MISS:
        not caught, but a test could not run on this host."""
        if self.entry.uncaught:
            return Status.SKIP
        if self.false_alarms:
            return Status.ERROR
        if self.caught:
            return Status.PASS
        statuses = {judged.verdict.status for judged in self.judged}
        # The host's fault says nothing about the suite.
        return Status.MISS if Status.MISS in statuses else Status.FAIL


Pytest = Callable[[Sequence[str], str], tuple[CaseVerdict, ...]]
"""Runs tests with words added to the guests' command line."""


def pytest_on(kernel: Kernel, tree: Path, runs: Path) -> Pytest:
    """A `Pytest` that runs the suite in `tree` on `kernel`."""

    def run(tests: Sequence[str], append: str) -> tuple[CaseVerdict, ...]:
        with tempfile.TemporaryDirectory(prefix="cvm-catalogue-") as scratch:
            verdicts = Path(scratch) / "verdicts.jsonl"
            argv = [
                *(sys.executable, "-m", "pytest", "-q", "--tb=no", "-p", "no:cacheprovider"),
                *("--target=emulated", f"--kernel={kernel.bzimage}", "--tier=soak"),
                *(f"--runs={runs.resolve()}", f"--verdicts={verdicts}", "--snapshot=off"),
                *((f"--append={append}",) if append else ()),
                *tests,
            ]
            said: list[str] = []
            code = run_guarded(
                argv, cwd=tree, env=os.environ, line=said.append, deadline_s=DEADLINE_S
            )
            if code not in _TOLD or not verdicts.exists():
                raise HostError(
                    f"pytest ended with exit status {code} and did not get to judge",
                    details=said[-20:],
                )
            return parse_verdicts(verdicts.read_text(encoding="utf-8"))

    return run


def _run_entry(entry: BugEntry, version: Version, pytest: Pytest) -> BugResult:
    """Run the tests that have to catch `entry`, with the bug on. Raises HostError where a test of
    the entry does not exist."""
    started = time.monotonic()
    catches = entry.catches_on(version)
    if not catches:
        return BugResult(entry, (), (), 0.0)
    verdicts = _judged_by_all(pytest, node_ids(catches), entry.command_line())
    judged = [
        judge(catch, verdict)
        for catch in catches
        for test in catch.tests
        for verdict in _found(verdicts, test)
    ]
    return BugResult(entry, tuple(judged), (), time.monotonic() - started)


def run_catalogue(
    entries: Sequence[BugEntry],
    version: Version,
    pytest: Pytest,
    *,
    clean: bool = True,
    notify: Notify = lambda _: None,
) -> tuple[BugResult, ...]:
    """Every entry that has a switch on a kernel of `version`: each bug on, then all off. With
    `clean` all their tests run once more with every bug off."""
    concerned = [entry for entry in entries if version in entry.versions]
    results: list[BugResult] = []
    for number, entry in enumerate(concerned, 1):
        if entry.catches_on(version):
            notify(f"{number}/{len(concerned)} {entry.id}")
        results.append(_run_entry(entry, version, pytest))
    tests = node_ids([catch for entry in concerned for catch in entry.catches_on(version)])
    if not clean or not tests:
        return tuple(results)
    notify("all bugs off")
    green = _judged_by_all(pytest, tests, "")

    def same(entry: BugEntry) -> tuple[CaseVerdict, ...]:
        own = node_ids(entry.catches_on(version))
        return tuple(verdict for test in own for verdict in with_test(green, test))

    return tuple(replace(result, clean=same(result.entry)) for result in results)


def _judged_by_all(pytest: Pytest, tests: Sequence[str], append: str) -> tuple[CaseVerdict, ...]:
    """The verdicts of `tests`; those that the host kept from one (MISS) are run once more.

    A MISS says nothing of the kernel, nor of the suite: QEMU's TCG before 8.1 loses one boot in
    some hundred to a race with the guest's own patching of code (docs/suite.md).
    """
    found = pytest(tests, append)
    missed = {verdict.test for verdict in found if verdict.status is Status.MISS}
    if not missed:
        return found
    again = pytest(sorted(missed), append)
    return (*(verdict for verdict in found if verdict.test not in missed), *again)


def node_ids(catches: Sequence[Catch]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(test for catch in catches for test in catch.tests))


def _found(verdicts: Sequence[CaseVerdict], test: str) -> tuple[CaseVerdict, ...]:
    found = with_test(verdicts, test)
    if not found:
        raise HostError(f"the suite did not run {test}", hint="mend the entry's tests")
    return found
