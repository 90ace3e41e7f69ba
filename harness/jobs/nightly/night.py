# SPDX-License-Identifier: MIT
"""The night: every cell of a plan, one after the other, each result on disk before the next begins.
What has ended is not run again; what a kill cut short is thrown away and run anew."""

import functools
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec
from msgspec import structs

from harness.base.status import HarnessError, HostError, Status
from harness.base.store import tree_size
from harness.base.units import format_size
from harness.jobs.lab import BuildJob, Lab, SampleJob, SuiteJob
from harness.jobs.ledger import Ledger, slug
from harness.jobs.nightly.measure import Turn, against_baseline, enough, order, samples_of
from harness.jobs.nightly.plan import Cell
from harness.jobs.nightly.plan_file import Limits, Plan
from harness.jobs.nightly.suite import run_suite, workers
from harness.jobs.patchsets import check_clean, gather, resolve_commit
from harness.kernel.source import GitSource, PathSource, parse_source
from harness.record.attempts import Sample
from harness.record.journal import Journal
from harness.record.night import CellKind, Ending
from harness.record.rundir import plain
from harness.targets.registry import kernel_of

Progress = Callable[[str, int, int | None, str], None]


class OutOfTime(Exception):
    """The night's time is over: what is left stays open for a resumed one."""


@dataclass
class Night:
    plan: Plan
    cells: list[Cell]
    directory: Path
    journal: Journal
    lab: Lab
    progress: Progress = lambda *_: None
    clock: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        limit = self.plan.limits.time_s
        self._ends_at = self.clock() + limit if limit is not None else None
        room = functools.partial(check_disk, self.directory, self.plan.limits, self.journal)
        self._ledger = Ledger(self.directory, self.journal, self.lab, self._time_left, room)

    def run(self) -> None:
        """Do what is not done yet. Raises nothing that a cell could cause."""
        self._ledger.sweep()
        try:
            for number, cell in enumerate(self.cells):
                if not self.is_done(cell):
                    self.progress("night", number, len(self.cells), cell.key)
                    self._one(cell, number)
        except OutOfTime:
            left = sum(not self.is_done(cell) for cell in self.cells)
            self.journal.append("out-of-time", left=left)

    def is_done(self, cell: Cell) -> bool:
        return any(self.journal.of("end", cell=cell.key))

    def _one(self, cell: Cell, number: int) -> None:
        self._time_left()
        reason = cell.skip or self._lacks_kernel(cell)
        if reason:
            self._end(cell, Ending(Status.SKIP, reason), 0.0)
            return
        started = self.clock()
        work = {CellKind.BUILD: self._build, CellKind.SUITE: self._suite}
        try:
            result = work.get(cell.kind, self._measure)(cell, number)
        except OutOfTime:
            raise
        except HarnessError as error:
            result = Ending(error.status, error.cause, error.hint, tuple(error.details))
        except OSError as error:  # a full disk, above all
            result = Ending(Status.MISS, f"{error.strerror}: {error.filename}")
        except Exception as error:  # a fault of the harness in one cell must not cost the night
            result = Ending(Status.MISS, f"{type(error).__name__}: {error}")
        self._end(cell, result, self.clock() - started)

    def _end(self, cell: Cell, end: Ending, seconds: float) -> None:
        like = {"like": cell.like} if cell.kind is not CellKind.MEASURE else {}
        facts = msgspec.to_builtins(end, enc_hook=str)
        self.journal.append("end", cell=cell.key, seconds=seconds, **like, **facts)
        text = f"{end.status.value} {cell.key}" + (f": {end.cause}" * bool(end.cause))
        self.progress("result", 0, None, text)

    def _time_left(self) -> float:
        """Seconds the next command may take. Raises OutOfTime."""
        cell_time = self.plan.limits.cell_time_s
        if self._ends_at is None:
            return cell_time
        left = self._ends_at - self.clock()
        if left <= 0:
            raise OutOfTime
        return min(left, cell_time)

    @staticmethod
    def _place(cell: Cell, number: int) -> str:
        """Where attempts at `cell` have their directories."""
        return f"cells/{number:03}-{slug(cell.key)}"

    def _lacks_kernel(self, cell: Cell) -> str:
        if cell.kind is CellKind.BUILD:
            return ""
        for name in (cell.kernel, cell.base):
            if name and self._kernel(cell, name) is None:
                return f"kernel {name} was not built"
        return ""

    def _kernel(self, cell: Cell, name: str) -> Ending | None:
        key = Cell(CellKind.BUILD, name, cell.config).key
        return next(self.journal.read("end", Ending, cell=key, status=Status.PASS.value), None)

    def _build(self, cell: Cell, number: int) -> Ending:
        arm = self.plan.kernel(cell.kernel)
        config = next(config for config in self.plan.configs if config.name == cell.config)
        place, name = self._ledger.place(self._place(cell, number), cell=cell.key)
        source = parse_source(arm.source)
        text = arm.source
        if isinstance(source, GitSource):
            commit = resolve_commit(source.repository, source.ref)
            text = f"git:{source.repository}@{commit}"
        elif isinstance(source, PathSource) and not arm.dirty:
            check_clean(source.path)
        patches = gather(arm.patches, place / "patches")
        target, more = kernel_of(cell.guest.spec.target for cell in self.cells if cell.guest)
        job = BuildJob(text, patches, (*more, *config.fragments), config.settings, target)
        kernel = self._ledger.kernel(job, place)
        return Ending(
            Status.PASS,
            "",
            place=name,
            bzimage=str(kernel.bzimage.relative_to(self.directory)),
            release=kernel.release,
            version=kernel.version,
            source=kernel.record.source,
            patches=tuple(str(patch.relative_to(self.directory)) for patch in patches),
            objects_compiled=kernel.record.objects_compiled,
        )

    def _bzimage(self, cell: Cell, name: str) -> Path:
        kernel = self._kernel(cell, name)
        assert kernel
        return self.directory / kernel.bzimage

    def _suite(self, cell: Cell, number: int) -> Ending:
        assert cell.suite
        assert cell.guest
        job = SuiteJob(
            kernel=self._bzimage(cell, cell.kernel),
            spec=cell.guest.spec,
            tests=cell.suite.tests,
            options=cell.suite.options,
            workers=workers(cell.guest.spec, self.plan.limits.memory),
        )
        place = self._place(cell, number)
        results, verdict = run_suite(self._ledger, job, cell.suite.repeats, place, cell=cell.key)
        known = {defect for r in results for test in r.tests for defect in test.expected}
        command = results[0].command
        return structs.replace(verdict, command=command, known=tuple(sorted(known)))

    def _measure(self, cell: Cell, number: int) -> Ending:
        assert cell.workload
        samples = samples_of(self.journal.events, cell)
        pair = 0
        while True:
            for turn in order(cell, pair, self.plan.seed):
                if turn not in samples:
                    sample = self._sample(cell, number, turn)
                    if sample.status not in (Status.PASS, Status.DONE):
                        cause = f"{turn.arm}: {sample.cause}"
                        return Ending(
                            sample.status, cause, command=sample.command, run_dir=sample.run_dir
                        )
                    samples = samples_of(self.journal.events, cell)
            pair += 1
            if enough(cell, samples, pair):
                break
        # The verdict of A against B is made when all comparisons of the night are known (false
        # discoveries).
        if cell.base is not None:
            return Ending(Status.DONE, "", pairs=pair)
        runs = [self.directory / sample.run_dir for sample in samples.values() if sample.run_dir]
        return Ending(*against_baseline(cell, runs, Path(self.plan.baselines)), pairs=pair)

    def _sample(self, cell: Cell, number: int, turn: Turn) -> Sample:
        assert cell.workload
        assert cell.guest
        job = SampleJob(
            kernel=self._bzimage(cell, turn.arm),
            spec=cell.guest.spec,
            workload=cell.workload.workload,
            options=cell.workload.options,
        )
        self.progress("guest", turn.index, cell.workload.repetitions, f"{turn.arm} {cell.key}")
        facts = {**plain(turn), "like": cell.like}
        return self._ledger.sample(job, self._place(cell, number), facts, cell=cell.key)


def check_disk(directory: Path, limits: Limits, journal: Journal) -> None:
    """Make room if the bounds are reached. Raises HostError where that is not enough."""
    if _complaint(directory, limits):
        for event in list(journal.of("suite", status=Status.PASS.value)):
            runs = directory / event["place"] / "runs"
            if runs.is_dir():
                shutil.rmtree(runs, ignore_errors=True)
                if not _complaint(directory, limits):
                    return
    complaint = _complaint(directory, limits)
    if complaint:
        raise HostError(complaint, hint="free some, or raise disk or free_disk in [limits]")


def _complaint(directory: Path, limits: Limits) -> str:
    free = shutil.disk_usage(directory).free
    if free < limits.free_disk:
        return (
            f"the disk is full: {format_size(free)} free where {directory} is, and "
            f"{format_size(limits.free_disk)} are to stay free"
        )
    used = tree_size(directory)
    if used > limits.disk:
        return f"the night takes {format_size(used)}, and may take {format_size(limits.disk)}"
    return ""
