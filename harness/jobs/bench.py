# SPDX-License-Identifier: MIT
"""Journaled builds, test runs and samples, shared by nightly, series and bisect.

Every attempt has a directory of its own, announced in the journal before it is made, so that what a
kill cut short can be told from what has a result, and removed.
"""

from __future__ import annotations

import re
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from harness.base.status import HarnessError, Status
from harness.jobs.lab import BuildJob, Lab, SampleJob, SuiteJob
from harness.record.attempts import Built, Sample, SuiteResult
from harness.record.journal import Journal
from harness.record.rundir import plain

MISSES = 2
"""How often what the host spoiled is tried again."""
DEADLINE_S = 3600.0


def new_place(directory: Path, journal: Journal, parent: str, **owner: str) -> tuple[Path, str]:
    """A new directory below `directory`/`parent`, and its name relative to `directory`."""
    above = directory / parent
    above.mkdir(parents=True, exist_ok=True)
    taken = [int(path.name) for path in above.iterdir() if path.name.isdecimal()]
    place = above / str(max(taken, default=0) + 1)
    name = str(place.relative_to(directory))
    journal.append("begin", place=name, **owner)
    place.mkdir()
    return place, name


def sweep_unfinished(directory: Path, journal: Journal) -> None:
    """Remove what a kill left of attempts without a result."""
    ended = {event.get("place") for event in journal.events if event["event"] != "begin"}
    for event in list(journal.of("begin")):
        if event["place"] not in ended:
            shutil.rmtree(directory / event["place"], ignore_errors=True)


def slug(text: str) -> str:
    """`text` as part of a file name."""
    return re.sub(r"[^A-Za-z0-9=.,+-]+", "_", text)[:100]


@dataclass
class Bench:
    """Builds kernels and runs guests for named points (commits, patches), each noted down."""

    directory: Path
    journal: Journal
    lab: Lab

    def build(self, point: str, job: BuildJob) -> Path:
        """The kernel of `point`, built once; its failure, too, is remembered. Raises HarnessError
        of the status it failed with; what the host spoiled is tried again next time."""
        known = next(self.journal.read("built", Built, point=point), None)
        if known is None:
            known = self._build(point, job)
        if known.status is not Status.PASS:
            raise BuildFailure(known)
        return self.directory / known.bzimage

    def _build(self, point: str, job: BuildJob) -> Built:
        place, name = new_place(self.directory, self.journal, f"kernels/{slug(point)}", point=point)
        started = time.monotonic()
        try:
            kernel = self.lab.build(job, place, DEADLINE_S)
            bzimage = str(kernel.bzimage.relative_to(self.directory))
            built = Built(Status.PASS, bzimage=bzimage, release=kernel.release)
        except HarnessError as error:
            built = Built(error.status, error.cause, tuple(error.details))
        event = "unbuilt" if built.status is Status.MISS else "built"
        seconds = time.monotonic() - started
        self.journal.append(event, point=point, place=name, seconds=seconds, **plain(built))
        return built

    def suite(self, point: str, job: SuiteJob) -> SuiteResult:
        """Run tests on the kernel of `point`."""
        place, name = new_place(self.directory, self.journal, f"tests/{slug(point)}", point=point)
        result = self.lab.suite(job, place, DEADLINE_S)
        self.journal.append("suite", point=point, place=name, **plain(result))
        return result

    def sample(self, point: str, job: SampleJob) -> Sample:
        """Run a workload once on the kernel of `point`; again where the host spoiled it."""
        for _ in range(1 + MISSES):
            place, name = new_place(
                self.directory, self.journal, f"guests/{slug(point)}", point=point
            )
            sample = self.lab.sample(job, place, DEADLINE_S)
            self.journal.append("sample", point=point, place=name, **plain(sample))
            if sample.status is not Status.MISS:
                break
        return sample


class BuildFailure(HarnessError):
    """A kernel that was not built, with the status that this had."""

    def __init__(self, built: Built) -> None:
        super().__init__(built.cause, details=built.details)
        self.status = built.status
        self.exit_code = built.status.exit_code
