# SPDX-License-Identifier: MIT
"""One commit's answer: is it good, bad, or can it not be said? With the evidence.

Functional: the bad end shows how the bug looks and how often it strikes; a commit is bad when it
fails in that way once, good when it has passed often enough that a bug that strikes so often would
have shown with 99 % probability, and skipped when it fails in another way or cannot be judged.

Metric: a commit is bad when the comparison with the good end calls it regressed by more than half
of what the bad end is worse, good when it is equivalent within that, skipped when it is neither
after as many guests as are allowed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

import scipy

from harness.analysis.metrics import metric_named
from harness.base.spec import GuestSpec
from harness.base.status import PreconditionError, Status
from harness.compare.runs import criteria_for
from harness.compare.statistics import Arms
from harness.compare.verdict import compare
from harness.jobs.lab import SampleJob, SuiteJob
from harness.jobs.ledger import Ledger
from harness.jobs.nightly.measure import describe
from harness.record.attempts import Answer, CaseVerdict, Sample, SuiteResult, Word
from harness.record.comparison import Comparison, Criteria, Verdict

SURE = 0.99
"""Probability with which a bug that strikes now and then is to have shown itself."""
MOST_PASSES = 30
_UNJUDGED = 2
"""How often what could not be judged is tried again."""


@dataclass(frozen=True)
class Look:
    """How a failure looks: what has to be the same for it to be the same failure."""

    signals: frozenset[str]
    text: str
    """The cause without numbers, addresses and paths."""

    def like(self, other: Look) -> bool:
        """Whether both are the same failure: a signal in common, else the same words."""
        if self.signals or other.signals:
            return bool(self.signals & other.signals)
        return self.text == other.text


def look_of(cause: str, signals: frozenset[str] = frozenset()) -> Look:
    """How a failure with this cause looks."""
    text = re.sub(r"(/[\w.+-]+)+|0x[0-9a-f]+|\d+(\.\d+)?", "#", cause)
    return Look(signals, text[:160])


@dataclass(frozen=True)
class SuiteQuestion:
    """Does this test pass?"""

    tests: tuple[str, ...]
    spec: GuestSpec
    options: tuple[str, ...] = ()
    any_failure: bool = False
    """Take every FAIL for the bug, however it looks."""
    proofs: int = 3
    """How often the bad end is run, to learn how often the bug strikes."""
    most_proofs: int = 10


def worst_test(result: SuiteResult) -> CaseVerdict | None:
    """The first test that failed."""
    return next((test for test in result.tests if test.status is Status.FAIL), None)


@dataclass
class SuiteTrial:
    """Answers the question commit by commit."""

    ledger: Ledger
    question: SuiteQuestion
    looks: tuple[Look, ...] = ()
    """How the bug looks; from the bad end."""
    passes: int = 1
    """How often a good commit has to pass."""
    _used: dict[str, int] = field(default_factory=dict)
    """Results in the journal that were looked at, by point: a resumed bisection goes by them."""

    def _run(self, point: str, kernel: Path) -> SuiteResult:
        question = self.question
        stored = list(self.ledger.journal.read("suite", SuiteResult, point=point))
        used = self._used.get(point, 0)
        self._used[point] = used + 1
        if used < len(stored):
            return stored[used]
        job = SuiteJob(kernel, question.spec, question.tests, question.options)
        return self.ledger.suite(job, point=point)

    def _once(self, point: str, kernel: Path) -> tuple[SuiteResult, Look | None]:
        """One run of the tests, again where they could not be judged; the look of a failure."""
        for _ in range(1 + _UNJUDGED):
            result = self._run(point, kernel)
            if result.status in (Status.PASS, Status.FAIL):
                break
        if result.status is not Status.FAIL:
            return result, None
        test = worst_test(result)
        return result, look_of(test.cause, test.signals) if test else look_of(result.cause)

    def prove_bad(self, point: str, kernel: Path) -> Answer:
        """Run the bad end until it fails, and learn. Raises PreconditionError if it does not."""
        results: list[SuiteResult] = []
        looks: list[Look] = []
        question = self.question
        while len(results) < question.proofs or (not looks and len(results) < question.most_proofs):
            result, look = self._once(point, kernel)
            if result.status not in (Status.PASS, Status.FAIL):
                raise PreconditionError(f"the bad end cannot be judged: {result.cause}")
            results.append(result)
            looks += [look] if look else []
        if not looks:
            raise PreconditionError(
                f"the bad end is not bad: it passed {len(results)} times",
                hint="check --bad, the guest options and the test",
            )
        self.looks = tuple(dict.fromkeys(looks))
        self.passes = passes_needed(len(looks), len(results))
        failed = next(result for result in results if result.status is Status.FAIL)
        rate = f"fails {len(looks)} of {len(results)} times"
        return Answer(Word.BAD, f"{rate}: {failed.cause}", (failed.command,))

    def answer(self, point: str, kernel: Path) -> Answer:
        """The word on one commit."""
        for _ in range(self.passes):
            result, look = self._once(point, kernel)
            if look:
                same = self.question.any_failure or any(look.like(bug) for bug in self.looks)
                if same:
                    return Answer(Word.BAD, result.cause, (result.command,))
                reason = f"fails in another way than the bad end: {result.cause}"
                return Answer(Word.SKIP, reason, (result.command,))
            if result.status is not Status.PASS:
                return Answer(Word.SKIP, f"{result.status.value}: {result.cause}")
        times = f" {self.passes} times" if self.passes > 1 else ""
        return Answer(Word.GOOD, f"passes{times}", (result.command,))


def passes_needed(failures: int, runs: int) -> int:
    """How many passes rule out, with probability SURE, a bug that failed `failures` of `runs`.

    The number of runs until a bug of that rate strikes is geometrically distributed.
    """
    if failures == runs:
        return 1
    return min(int(scipy.stats.geom.ppf(SURE, failures / runs)), MOST_PASSES)


@dataclass(frozen=True)
class MetricQuestion:
    """Has this metric got worse?"""

    metric: str
    workload: str
    spec: GuestSpec
    options: tuple[str, ...] = ()
    guests: int = 3
    """Fresh guests per commit, to begin with."""
    most: int = 24
    threshold: float | None = None
    """Relative change that makes a commit bad; None: half of what the ends differ."""
    margin: float = 0.002
    """Ends that differ by less are taken for equal."""


@dataclass
class MetricTrial:
    """Answers a MetricQuestion commit by commit."""

    ledger: Ledger
    question: MetricQuestion
    reference: tuple[str, Path] | None = None
    """The good end: name and kernel."""
    threshold: float = 0.0

    def _values(self, point: str, kernel: Path, count: int) -> list[float]:
        """`count` values of the metric, those of earlier runs used first. Raises
        PreconditionError where a guest gave none."""
        question = self.question
        known = [
            sample.metrics[question.metric]
            for sample in self.ledger.journal.read("sample", Sample, point=point)
            if question.metric in sample.metrics
        ]
        while len(known) < count:
            job = SampleJob(kernel, question.spec, question.workload, question.options)
            sample = self.ledger.sample(job, point=point)
            known.append(_value(sample, question.metric))
        return known[:count]

    def _compare(self, point: str, kernel: Path, margin: float) -> Comparison:
        """The commit against the good end, with more guests until there is a verdict."""
        assert self.reference
        question, count = self.question, self.question.guests
        criteria = criteria_for(metric_named(question.metric), Criteria(margin=margin))
        while True:
            good = self._values(*self.reference, count)
            here = self._values(point, kernel, count)
            found = compare(question.metric, Arms.of(good, here), criteria)
            if found.verdict is not Verdict.INCONCLUSIVE or count >= question.most:
                return found
            count = min(2 * count, question.most)

    def prove(self, good: tuple[str, Path], bad: tuple[str, Path]) -> tuple[Answer, Answer]:
        """Both ends, and the threshold between them. Raises PreconditionError if the bad end is
        not worse than the good one."""
        self.reference = good
        found = self._compare(*bad, self.question.margin)
        if found.verdict is not Verdict.REGRESSED:
            raise PreconditionError(
                f"the bad end is not worse than the good one: {describe(found)}",
                hint="give more guests (--most), or another metric",
            )
        self.threshold = self.question.threshold or abs(found.effect) / 2
        reason = f"{describe(found)}; a commit is bad above {self.threshold:.2%}"
        return Answer(Word.GOOD, "the reference"), Answer(Word.BAD, reason)

    def answer(self, point: str, kernel: Path) -> Answer:
        """The word on one commit."""
        try:
            found = self._compare(point, kernel, self.threshold)
        except PreconditionError as error:
            return Answer(Word.SKIP, error.cause)
        words = {
            Verdict.REGRESSED: Word.BAD,
            Verdict.EQUIVALENT: Word.GOOD,
            Verdict.IMPROVED: Word.GOOD,
            Verdict.INCONCLUSIVE: Word.SKIP,
        }
        return Answer(words[found.verdict], describe(found))


def _value(sample: Sample, metric: str) -> float:
    # A bug that other commits bring does not keep this one's cost from being measured, as long as
    # the workload ended: else there is no such metric.
    judged = sample.status in (Status.PASS, Status.DONE, Status.FAIL)
    if not judged or metric not in sample.metrics:
        reason = sample.cause or f"the run has no {metric}"
        raise PreconditionError(f"{sample.status.value}: {reason}")
    return sample.metrics[metric]
