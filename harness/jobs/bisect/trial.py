# SPDX-License-Identifier: MIT
"""One commit's answer, with the evidence: is it good, bad, or can it not be said? docs/bisect.md
says what makes it the one or the other."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

import scipy

from harness.base.spec import GuestSpec
from harness.base.status import PreconditionError, Status
from harness.jobs.lab import SuiteJob
from harness.jobs.ledger import Failed, Ledger, Measurement
from harness.jobs.nightly.measure import describe
from harness.record.attempts import Answer, SuiteResult, Word
from harness.record.comparison import Comparison, Verdict

_MEASURED = (Status.PASS, Status.DONE, Status.FAIL)
"""A bug that other commits bring does not keep this one's cost from being measured, as long as the
workload ended: else there is no such metric."""
SURE = 0.99
"""Probability with which a bug that strikes now and then is to have shown itself."""
MOST_PASSES = 30
_PROOFS, _MOST_PROOFS = 3, 10
"""How often the bad end is run, to learn how often the bug strikes; until it does, at most."""
_EQUAL_ENDS = 0.002
"""Ends that differ by less are taken for equal."""
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
    text = re.sub(r"(/[\w.+-]+)+|0x[0-9a-f]+|\d+(\.\d+)?", "#", cause)
    return Look(signals, text[:160])


@dataclass
class SuiteTrial:
    """Do these tests pass?"""

    ledger: Ledger
    tests: tuple[str, ...]
    spec: GuestSpec
    options: tuple[str, ...] = ()
    any_failure: bool = False
    """Take every FAIL for the bug, however it looks."""
    looks: tuple[Look, ...] = ()
    """How the bug looks; from the bad end."""
    passes: int = 1
    """How often a good commit has to pass."""
    _used: dict[str, int] = field(default_factory=dict)
    """Results in the journal that were looked at, by point: a resumed bisection goes by them."""

    def _run(self, point: str, kernel: Path) -> SuiteResult:
        stored = list(self.ledger.journal.read("suite", SuiteResult, point=point))
        used = self._used.get(point, 0)
        self._used[point] = used + 1
        if used < len(stored):
            return stored[used]
        job = SuiteJob(kernel, self.spec, self.tests, self.options)
        return self.ledger.suite(job, point=point)

    def _once(self, point: str, kernel: Path) -> tuple[SuiteResult, Look | None]:
        """One run of the tests, again where they could not be judged; the look of a failure."""
        for _ in range(1 + _UNJUDGED):
            result = self._run(point, kernel)
            if result.status in (Status.PASS, Status.FAIL):
                break
        if result.status is not Status.FAIL:
            return result, None
        test = next((test for test in result.tests if test.status is Status.FAIL), None)
        return result, look_of(test.cause, test.signals) if test else look_of(result.cause)

    def prove_bad(self, point: str, kernel: Path) -> Answer:
        """Run the bad end until it fails, and learn. Raises PreconditionError if it does not."""
        results: list[SuiteResult] = []
        looks: list[Look] = []
        while len(results) < _PROOFS or (not looks and len(results) < _MOST_PROOFS):
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
        for _ in range(self.passes):
            result, look = self._once(point, kernel)
            if look:
                if self.any_failure or any(look.like(bug) for bug in self.looks):
                    return Answer(Word.BAD, result.cause, (result.command,))
                reason = f"fails in another way than the bad end: {result.cause}"
                return Answer(Word.SKIP, reason, (result.command,))
            if result.status is not Status.PASS:
                return Answer(Word.SKIP, f"{result.status.value}: {result.cause}")
        times = f" {self.passes} times" if self.passes > 1 else ""
        return Answer(Word.GOOD, f"passes{times}", (result.command,))


def passes_needed(failures: int, runs: int) -> int:
    """How many passes rule out, with probability SURE, a bug that failed `failures` of `runs`. The
    number of runs until a bug of that rate strikes is geometrically distributed."""
    if failures == runs:
        return 1
    return min(int(scipy.stats.geom.ppf(SURE, failures / runs)), MOST_PASSES)


@dataclass
class MetricTrial:
    """Has this figure got worse?"""

    ledger: Ledger
    what: Measurement
    most: int = 24
    """Guests per commit."""
    threshold: float | None = None
    """Relative change that makes a commit bad; None: half of what the ends differ."""
    reference: tuple[str, Path] | None = None
    """The good end: name and kernel."""

    def _values(self, point: str, kernel: Path, count: int) -> list[float]:
        try:
            return self.ledger.values(self.what, point, kernel, _MEASURED, count)
        except Failed as error:
            raise PreconditionError(f"{error.status.value}: {error.cause}") from error

    def _compare(self, point: str, kernel: Path, margin: float) -> Comparison:
        """The commit against the good end, with more guests until there is a verdict."""
        assert self.reference
        count = self.what.guests
        while True:
            good = self._values(*self.reference, count)
            found = self.what.compare(good, self._values(point, kernel, count), margin)
            if found.verdict is not Verdict.INCONCLUSIVE or count >= self.most:
                return found
            count = min(2 * count, self.most)

    def prove(self, good: tuple[str, Path], bad: tuple[str, Path]) -> tuple[Answer, Answer]:
        """Both ends, and the threshold between them. Raises PreconditionError if the bad end is
        not worse than the good one."""
        self.reference = good
        found = self._compare(*bad, _EQUAL_ENDS)
        if found.verdict is not Verdict.REGRESSED:
            raise PreconditionError(
                f"the bad end is not worse than the good one: {describe(found)}",
                hint="give more guests (--most), or another metric",
            )
        self.threshold = self.threshold or abs(found.effect) / 2
        reason = f"{describe(found)}; a commit is bad above {self.threshold:.2%}"
        return Answer(Word.GOOD, "the reference"), Answer(Word.BAD, reason)

    def answer(self, point: str, kernel: Path) -> Answer:
        assert self.threshold
        try:
            found = self._compare(point, kernel, self.threshold)
        except PreconditionError as error:
            return Answer(Word.SKIP, error.cause)
        words = {Verdict.REGRESSED: Word.BAD, Verdict.INCONCLUSIVE: Word.SKIP}
        return Answer(words.get(found.verdict, Word.GOOD), describe(found))
