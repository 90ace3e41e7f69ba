# SPDX-License-Identifier: MIT
"""A series, commit by commit: does each one build without new warnings, boot, pass, and what does
it cost?"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from harness.analysis.metrics import metric_named
from harness.base.spec import GuestSpec
from harness.base.status import HarnessError, Status, worst
from harness.compare.runs import criteria_for
from harness.compare.statistics import Arms
from harness.compare.verdict import compare
from harness.jobs.lab import SampleJob, SuiteJob
from harness.jobs.ledger import Ledger
from harness.jobs.nightly.measure import describe
from harness.jobs.nightly.suite import judge_attempts, to_repeat
from harness.jobs.series.points import SeriesPoint
from harness.record.attempts import Compiled, Sample, SuiteResult
from harness.record.comparison import Comparison, Criteria, Verdict
from harness.record.series import CommitResult

Say = Callable[[str], None]

_WARNING = re.compile(r"^(?:\.\./)*(?P<file>[^\s:]+):\d+(?::\d+)?: (?P<text>warning: .*)$")


@dataclass(frozen=True)
class Cost:
    """What is measured on every kernel of a series."""

    metric: str
    workload: str
    options: tuple[str, ...]
    spec: GuestSpec
    guests: int = 3
    margin: float = 0.005
    """Relative change of one commit up to which it does not matter."""

    def criteria(self) -> Criteria:
        """How one commit is compared with the one before."""
        return criteria_for(metric_named(self.metric), Criteria(margin=self.margin))


@dataclass(frozen=True)
class SeriesCheck:
    """What every kernel of a series has to do."""

    tests: tuple[str, ...]
    spec: GuestSpec
    options: tuple[str, ...] = ()
    cost: Cost | None = None
    repeats: int = 1


@dataclass
class PatchSeries:
    """A series in progress."""

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
        check = self.check
        results = list(self.ledger.journal.read("suite", SuiteResult, point=point.name))
        tests = to_repeat(results) if results else ()
        while tests is not None and len(results) <= check.repeats:
            job = SuiteJob(kernel, check.spec, tests or check.tests, check.options)
            results.append(self.ledger.suite(job, point=point.name))
            tests = to_repeat(results)
        verdict = judge_attempts(results)
        counts = ", ".join(f"{count} {name}" for name, count in verdict.counts.items())
        flakes = tuple(f"{flake.test}" for flake in verdict.flakes)
        return verdict.status, verdict.cause, counts or verdict.status.value, flakes

    # Cost

    def _cost(
        self, number: int, point: SeriesPoint, kernel: Path, cost: Cost
    ) -> tuple[float, Comparison | None, Comparison | None]:
        """Mean, change against the commit before, change against the base."""
        values = self._values(point, kernel, cost)
        self._costs[point.name] = values
        mean = sum(values) / len(values)
        # The commit before may not have built: then the last one that did.
        earlier = [self._costs[p.name] for p in self.points[:number] if p.name in self._costs]
        if not earlier:
            return mean, None, None
        change = compare(cost.metric, Arms.of(earlier[-1], values), cost.criteria())
        return mean, change, compare(cost.metric, Arms.of(earlier[0], values), cost.criteria())

    def _values(self, point: SeriesPoint, kernel: Path, cost: Cost) -> list[float]:
        values = [
            sample.metrics[cost.metric]
            for sample in self.ledger.journal.read("sample", Sample, point=point.name)
            if cost.metric in sample.metrics
        ]
        while len(values) < cost.guests:
            job = SampleJob(kernel, cost.spec, cost.workload, cost.options)
            sample = self.ledger.sample(job, point=point.name)
            if cost.metric not in sample.metrics or sample.status.exit_code:
                raise BadSample(sample.status, sample.cause or f"no {cost.metric}")
            values.append(sample.metrics[cost.metric])
        return values


class BadSample(HarnessError):
    """A guest that gave no figure."""

    def __init__(self, status: Status, cause: str) -> None:
        super().__init__(cause)
        self.status = status if status.exit_code else Status.ERROR
        self.exit_code = self.status.exit_code


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
