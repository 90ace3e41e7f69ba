# SPDX-License-Identifier: MIT
"""Which commit broke it: the ends are proven first, then git bisect asks and the harness answers.
One that was killed asks the same again, and the journal has the answers."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from harness.base.spec import GuestSpec, TargetName
from harness.base.status import HarnessError, PreconditionError, Status
from harness.jobs.bisect.git import Bisection, subject
from harness.jobs.bisect.trial import MetricTrial, SuiteTrial
from harness.jobs.lab import BuildJob
from harness.jobs.ledger import Ledger
from harness.record.attempts import Answer, Word
from harness.record.rundir import plain

Say = Callable[[str], None]


@dataclass(frozen=True)
class BisectResult:
    status: Status
    """DONE: one commit; ERROR: several are left that cannot be judged."""
    candidates: tuple[str, ...]
    """One line each: short id and subject. One: the first bad commit."""
    commits: tuple[str, ...]
    """Their full ids."""
    bad_evidence: Answer
    good_evidence: Answer
    steps: int
    """Commits that git asked about."""
    builds: int
    """Kernels built, both ends counted, those that failed too."""
    commits_in_range: int
    seconds: float
    """Of work, interruptions left out."""
    reproduce: str


@dataclass
class Bisect:
    ledger: Ledger
    trial: SuiteTrial | MetricTrial
    repository: Path
    good: str
    bad: str
    fragments: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()
    target: TargetName = GuestSpec.target
    say: Say = lambda _: None

    def run(self) -> BisectResult:
        """Find it. Raises PreconditionError if an end is not what it is said to be."""
        started = time.monotonic()
        self.ledger.sweep()
        bisection = Bisection(self.repository, self.ledger.directory / "git", self.good, self.bad)
        answers = self._prove(bisection)
        steps = 0
        while commit := bisection.state.next:
            steps += 1
            answer = self._answer(commit)
            answers[commit] = answer
            self.say(f"step {steps}: {answer.word.value}: {self._name(commit)}: {answer.reason}")
            bisection.answer(commit, answer.word.value)
        return self._result(bisection, answers, steps, time.monotonic() - started)

    def _name(self, commit: str) -> str:
        return subject(self.repository, commit)

    def _kernel(self, commit: str) -> Path:
        self.say(f"building {self._name(commit)}")
        source = f"git:{self.repository}@{commit}"
        job = BuildJob(source, (), self.fragments, self.settings, self.target)
        return self.ledger.build(commit, job)

    def _prove(self, bisection: Bisection) -> dict[str, Answer]:
        """Both ends, the bad one first: it shows what to look for."""
        bad = (bisection.bad, self._kernel(bisection.bad))
        if isinstance(self.trial, MetricTrial):
            good = (bisection.good, self._kernel(bisection.good))
            good_answer, bad_answer = self.trial.prove(good, bad)
        else:
            bad_answer = self.trial.prove_bad(*bad)
            self.say(f"the bad end is bad: {bad_answer.reason}")
            good = (bisection.good, self._kernel(bisection.good))
            good_answer = self.trial.answer(*good)
            if good_answer.word is not Word.GOOD:
                raise PreconditionError(
                    f"the good end is not good: {good_answer.reason}",
                    hint="check --good, the guest options and the test",
                )
        self.say(f"the good end is good: {good_answer.reason}")
        self.ledger.journal.append("proven", good=good_answer, bad=bad_answer)
        return {bisection.good: good_answer, bisection.bad: bad_answer}

    def _answer(self, commit: str) -> Answer:
        for known in self.ledger.journal.read("answer", Answer, commit=commit):
            return known
        try:
            kernel = self._kernel(commit)
        except HarnessError as error:
            answer = Answer(Word.SKIP, f"does not build: {error.cause}")
        else:
            answer = self.trial.answer(commit, kernel)
        self.ledger.journal.append("answer", commit=commit, **plain(answer))
        return answer

    def _result(
        self, bisection: Bisection, answers: dict[str, Answer], steps: int, seconds: float
    ) -> BisectResult:
        commits = bisection.state.candidates
        events = self.ledger.journal.events
        built = [event for event in events if event["event"] in ("built", "unbuilt")]
        first = commits[0] if len(commits) == 1 else bisection.bad
        bad = answers.get(first, answers[bisection.bad])
        good = answers.get(bisection.parent(first), answers[bisection.good])
        commands = [*bad.evidence] or [
            str(event["command"])
            for event in events
            if event.get("point") == first and "command" in event
        ]
        return BisectResult(
            status=Status.DONE if len(commits) == 1 else Status.ERROR,
            candidates=tuple(self._name(commit) for commit in commits),
            commits=commits,
            bad_evidence=bad,
            good_evidence=good,
            steps=steps,
            builds=len(built),
            commits_in_range=bisection.commits,
            seconds=seconds + _earlier(self.ledger),
            reproduce=commands[-1] if commands else "",
        )


def _earlier(ledger: Ledger) -> float:
    """Seconds of work that earlier sessions spent on guests and builds."""
    last = max(
        (i for i, event in enumerate(ledger.journal.events) if event["event"] == "session"),
        default=0,
    )
    return sum(
        float(event["seconds"])
        for event in ledger.journal.events[:last]
        if isinstance(event.get("seconds"), int | float)
    )
