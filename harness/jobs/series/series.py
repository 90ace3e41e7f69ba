# SPDX-License-Identifier: MIT
"""A series, commit by commit: does each one build without new warnings, boot, pass, and what does
it cost?"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from harness.base.spec import GuestSpec
from harness.base.status import HarnessError, Status, worst
from harness.jobs.lab import SuiteJob
from harness.jobs.ledger import Ledger, Measurement
from harness.jobs.nightly.measure import describe
from harness.jobs.nightly.suite import run_suite
from harness.jobs.series.points import SeriesPoint
from harness.record.attempts import Compiled
from harness.record.comparison import Comparison, Verdict
from harness.record.series import CommitResult

Say = Callable[[str], None]

_REPEATS = 1
_GOOD = (Status.PASS, Status.DONE, Status.SKIP)
_WARNING = re.compile(r"^(?:\.\./)*(?P<file>[^\s:]+):\d+(?::\d+)?: (?P<text>warning: .*)$")


@dataclass(frozen=True)
class SeriesCheck:
    tests: tuple[str, ...]
    spec: GuestSpec
    options: tuple[str, ...] = ()
    cost: Measurement | None = None
    margin: float = 0.005
    """Relative change of one commit up to which it does not matter."""


@dataclass
class PatchSeries:
    ledger: Ledger
    points: Sequence[SeriesPoint]
    check: SeriesCheck
    say: Say = lambda _: None
    _costs: dict[str, list[float]] = field(default_factory=dict)
    _printed: dict[str, Mapping[str, Sequence[str]]] = field(default_factory=dict)

    def run(self) -> list[CommitResult]:
        """One row for each point, the base first. Never raises for what a commit does."""
        self.ledger.sweep()
        rows: list[CommitResult] = []
        for number, point in enumerate(self.points):
            self.say(f"{number}/{len(self.points) - 1} {point.title}")
            row = self._row(number, point)
            self.say(f"  {row.status.value} {row.cause}".rstrip())
            rows.append(row)
        return rows

    def _row(self, number: int, point: SeriesPoint) -> CommitResult:
        try:
            kernel = self.ledger.build(point.name, point.job)
        except HarnessError as error:
            # Every commit of a series has to build, or nobody can bisect across it.
            status = Status.FAIL if error.status is Status.ERROR else error.status
            return CommitResult(point.name, point.title, status, error.cause)
        new, not_compiled = self._warnings(number, point)
        causes: list[tuple[Status, str]] = []
        causes += [(Status.FAIL, f"new warning: {new[0]}")] if new else []
        tests = ""
        flakes: tuple[str, ...] = ()
        if self.check.tests:
            judged, why, tests, flakes = self._tests(point, kernel)
            causes.append((judged, why))
        change = total = mean = None
        if self.check.cost:
            try:
                mean, change, total = self._cost(number, point, kernel, self.check.cost)
                if change and change.verdict is Verdict.REGRESSED:
                    causes.append((Status.FAIL, describe(change)))
            except HarnessError as error:
                causes.append((error.status, f"cost: {error.cause}"))
        causes = causes or [(Status.DONE, "")]
        overall = worst(status for status, _ in causes)
        cause = next(cause for found, cause in causes if found is overall)
        return CommitResult(
            *(point.name, point.title, overall, cause, tuple(new), tuple(not_compiled), tests),
            *(mean, change, total, flakes),
        )

    # Warnings

    def _warnings(self, number: int, point: SeriesPoint) -> tuple[list[str], list[str]]:
        """New warnings in the files that `point` touches, and its C files that were not compiled.

        The files of this commit and the next are compiled while their tree is in place, so that
        the tree never goes back: going back would change times, and cost whole builds.
        """
        after = self.points[number + 1].touched if number + 1 < len(self.points) else ()
        sources = [file for file in dict.fromkeys((*point.touched, *after)) if file[-2:] == ".c"]
        self._printed[point.name] = self._compile(point, sources) if sources else {}
        if number == 0:
            return [], []
        before = warnings_in(self._printed.get(self.points[number - 1].name, {}))
        here = warnings_in(self._printed[point.name])
        compiled = self._printed[point.name].keys()
        not_compiled = [f for f in point.touched if f[-2:] == ".c" and f not in compiled]
        new = [text for text in here if text not in before and _file(text) in point.touched]
        return new, not_compiled

    def _compile(self, point: SeriesPoint, files: Sequence[str]) -> Mapping[str, Sequence[str]]:
        for known in self.ledger.journal.read("compiled", Compiled, point=point.name):
            return known.printed
        try:
            printed = self.ledger.lab.compile(point.job, files)
        except HarnessError as error:
            self.say(f"  warnings are not known: {error.cause}")
            return {}
        self.ledger.journal.append("compiled", point=point.name, printed=printed)
        return printed

    # Tests

    def _tests(self, point: SeriesPoint, kernel: Path) -> tuple[Status, str, str, tuple[str, ...]]:
        job = SuiteJob(kernel, self.check.spec, self.check.tests, self.check.options)
        _, verdict = run_suite(self.ledger, job, _REPEATS, point=point.name)
        counts = ", ".join(f"{count} {name}" for name, count in verdict.counts.items())
        flakes = tuple(f"{flake.test}" for flake in verdict.flakes)
        return verdict.status, verdict.cause, counts or verdict.status.value, flakes

    # Cost

    def _cost(
        self, number: int, point: SeriesPoint, kernel: Path, cost: Measurement
    ) -> tuple[float, Comparison | None, Comparison | None]:
        """Mean, change against the commit before, change against the base."""
        margin = self.check.margin
        values = self.ledger.values(cost, point.name, kernel, _GOOD, cost.guests)
        self._costs[point.name] = values
        mean = sum(values) / len(values)
        # The commit before may not have built: then the last one that did.
        earlier = [self._costs[p.name] for p in self.points[:number] if p.name in self._costs]
        if not earlier:
            return mean, None, None
        change = cost.compare(earlier[-1], values, margin)
        return mean, change, cost.compare(earlier[0], values, margin)


def warnings_in(printed: Mapping[str, Sequence[str]]) -> list[str]:
    """The compiler's warnings as "file: warning: text [-Wflag]", without line numbers: a line that
    only moved is not a new warning."""
    found = [
        f"{match['file']}: {match['text']}"
        for lines in printed.values()
        for line in lines
        if (match := _WARNING.match(line))
    ]
    return list(dict.fromkeys(found))


def _file(warning: str) -> str:
    return warning.partition(": ")[0]
