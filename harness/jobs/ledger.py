# SPDX-License-Identifier: MIT
"""Journaled builds, test runs and samples, shared by nightly, series and bisect. Each is announced
before its directory is made, so that what a kill cut short is told from what has a result."""

import contextlib
import re
import shutil
import time
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from harness.analysis.metrics import metric_named
from harness.base.spec import GuestSpec
from harness.base.status import HarnessError, HostError, Status, UsageError
from harness.compare.runs import criteria_for
from harness.compare.statistics import Arms
from harness.compare.verdict import compare
from harness.jobs.lab import BuildJob, BuiltKernel, Lab, SampleJob, SuiteJob
from harness.record.attempts import Built, Sample, SuiteResult
from harness.record.comparison import Comparison, Criteria
from harness.record.journal import JOURNAL, Journal
from harness.record.rundir import plain

MISSES = 2
"""How often what the host spoiled is tried again."""
DEADLINE_S = 3600.0


def slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9=.,+-]+", "_", text)[:100]


@dataclass(frozen=True)
class Measurement:
    """A figure of a workload, to be taken on many kernels."""

    metric: str
    workload: tuple[str, ...]
    """Its name, and options of `cvm-harness run`."""
    spec: GuestSpec
    guests: int = 3
    """Fresh ones per kernel, to begin with."""

    def compare(self, before: Sequence[float], after: Sequence[float], margin: float) -> Comparison:
        """The values of one kernel with those of an earlier one."""
        criteria = criteria_for(metric_named(self.metric), Criteria(margin=margin))
        return compare(self.metric, Arms.of(before, after), criteria)


@dataclass
class Ledger:
    """Builds kernels and runs guests, each attempt noted down with its owner: a cell of a night,
    or a point (commit, patch) of a series or bisection."""

    directory: Path
    journal: Journal
    lab: Lab
    time_left: Callable[[], float] = lambda: DEADLINE_S
    """Seconds that the next command may take. Raises where there is no time left."""
    make_room: Callable[[], None] = lambda: None
    """Called before each attempt. Raises HostError where the disk is full."""

    def about(self, question: object) -> None:
        """Note what it is about. Raises UsageError where it has been about something else."""
        asked = plain(question)
        known = next(self.journal.of("question"), None)
        if known is None:
            self.journal.append("question", asked=asked)
        elif known.get("asked") != asked:
            raise UsageError(
                f"{self.directory} is about another question",
                hint="give the same options to go on, or another --directory",
            )

    def sweep(self) -> None:
        """Remove what a kill left of attempts without a result."""
        ended = {event.get("place") for event in self.journal.events if event["event"] != "begin"}
        for event in list(self.journal.of("begin")):
            if event["place"] not in ended:
                shutil.rmtree(self.directory / event["place"], ignore_errors=True)

    def place(self, parent: str, **owner: str) -> tuple[Path, str]:
        """A new directory below `parent`, and its name relative to the ledger's."""
        self.make_room()
        above = self.directory / parent
        above.mkdir(parents=True, exist_ok=True)
        taken = [int(path.name) for path in above.iterdir() if path.name.isdecimal()]
        place = above / str(max(taken, default=0) + 1)
        name = str(place.relative_to(self.directory))
        self.journal.append("begin", place=name, **owner)
        place.mkdir()
        return place, name

    def kernel(self, job: BuildJob, place: Path) -> BuiltKernel:
        """Build a kernel in `place`. Raises HarnessError of the status that it fails with."""
        try:
            return self.lab.build(job, place, self.time_left())
        except HostError:
            self.time_left()  # the end of all time stopped it, which says nothing about the build
            raise

    def build(self, point: str, job: BuildJob) -> Path:
        """The kernel of `point`, built once; its failure, too, is remembered. Raises HarnessError
        of the status it failed with; what the host spoiled is tried again next time."""
        known = next(self.journal.read("built", Built, point=point), None)
        if known is None:
            known = self._build(point, job)
        if known.status is not Status.PASS:
            raise Failed(known.status, known.cause, known.details)
        return self.directory / known.bzimage

    def _build(self, point: str, job: BuildJob) -> Built:
        place, name = self.place(f"kernels/{slug(point)}", point=point)
        started = time.monotonic()
        try:
            kernel = self.kernel(job, place)
            bzimage = str(kernel.bzimage.relative_to(self.directory))
            built = Built(Status.PASS, bzimage=bzimage, release=kernel.release)
        except HarnessError as error:
            built = Built(error.status, error.cause, tuple(error.details))
        event = "unbuilt" if built.status is Status.MISS else "built"
        seconds = time.monotonic() - started
        self.journal.append(event, point=point, place=name, seconds=seconds, **plain(built))
        return built

    def suite(self, job: SuiteJob, parent: str = "", **owner: str) -> SuiteResult:
        """Run tests; the result is the `suite` event of `owner`."""
        deadline_s = self.time_left()
        place, name = self.place(parent or f"tests/{_slug(owner)}", **owner)
        result = self.lab.suite(job, place, deadline_s)
        if not result.complete:
            self.time_left()  # the end of all time stopped it: that is no result
        self.journal.append("suite", place=name, **owner, **plain(result))
        return result

    def sample(
        self, job: SampleJob, parent: str = "", facts: dict[str, object] | None = None, **owner: str
    ) -> Sample:
        """Run a workload once, again where the host spoiled it; the result is a `sample` event of
        `owner` with `facts`, each spoiled one a `spoiled` event."""
        for _ in range(1 + MISSES):
            deadline_s = self.time_left()
            place, name = self.place(parent or f"guests/{_slug(owner)}", **owner)
            sample = self.lab.sample(job, place, deadline_s)
            if sample.status is not Status.MISS:
                # Names of runs are relative, so that the directory may be moved.
                run = sample.run_dir
                if run and run.is_relative_to(self.directory):
                    run = run.relative_to(self.directory)
                told = plain(msgspec.structs.replace(sample, run_dir=run))
                self.journal.append("sample", place=name, **owner, **(facts or {}), **told)
                break
            self.time_left()
            self.journal.append("spoiled", place=name, cause=sample.cause, **owner)
        return sample

    def values(
        self, what: Measurement, point: str, kernel: Path, good: Container[Status], count: int
    ) -> list[float]:
        """`count` values at `point`, those of earlier runs used first. Raises HarnessError where a
        guest gave none, or its status is not `good`."""
        metric, (workload, *options) = what.metric, what.workload
        job = SampleJob(kernel, what.spec, workload, tuple(options))
        known = [
            sample.metrics[metric]
            for sample in self.journal.read("sample", Sample, point=point)
            if metric in sample.metrics
        ]
        while len(known) < count:
            sample = self.sample(job, point=point)
            if sample.status not in good or metric not in sample.metrics:
                raise Failed(sample.status, sample.cause or f"the run has no {metric}")
            known.append(sample.metrics[metric])
        return known[:count]


@contextlib.contextmanager
def open_ledger(directory: Path, lab: Lab) -> Iterator[Ledger]:
    """The ledger in `directory`. Raises UsageError where that cannot be made."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot use {directory}: {error.strerror}") from error
    with Journal(directory / JOURNAL) as journal:
        yield Ledger(directory.resolve(), journal, lab)


def _slug(owner: Mapping[str, str]) -> str:
    return slug(next(iter(owner.values())))


class Failed(HarnessError):
    """A kernel that was not built or a guest that gave no figure, with the status that this had."""

    def __init__(self, status: Status, cause: str, details: Iterable[str] = ()) -> None:
        super().__init__(cause, details=details)
        self.status = status if status.exit_code else Status.ERROR
        self.exit_code = self.status.exit_code
