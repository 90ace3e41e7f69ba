# SPDX-License-Identifier: MIT
"""Builds, suites and single measurements, each as a command of its own: what `cvm-harness` and
`pytest` would do by hand, with a log, a deadline, and a result that a program can read.

A process of its own so that nothing one of them does (a leak, a crash, a full disk, a hang) reaches
the next, and so that every result can be had again by pasting its command.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from harness.analysis.metrics import metrics_of
from harness.base.guarded import run_guarded
from harness.base.guest_options import spec_arguments
from harness.base.spec import Clock, GuestSpec, TargetName
from harness.base.status import (
    HarnessError,
    HostError,
    PreconditionError,
    Status,
    UsageError,
    worst,
)
from harness.host.reserve import Claim, Supply, reserve
from harness.record.attempts import CaseVerdict, Sample, SuiteResult
from harness.record.view import RunView
from harness.suite.verdicts import parse_verdicts

_TAIL = 20
_STATUS_OF_EXIT = {0: Status.PASS, 1: Status.FAIL, 2: Status.ERROR, 3: Status.ERROR}
_SAID = re.compile(r"^(usage|FAIL|ERROR|MISS): (?P<cause>.+)$")
_BUILT = re.compile(r"^\S+ (?P<path>/.*)$")
_PYTEST_JUDGED = {0, 1, 3, 5, 69}
"""Exit codes of a pytest that ran its tests (README.md); 5 is "no tests"; others are usage errors
and interrupts."""

_CLI = "from harness.cli.app import main; main()"

Notify = Callable[[str], None]


@dataclass(frozen=True)
class BuildJob:
    """A kernel to build."""

    source: str
    patches: tuple[Path, ...] = ()
    fragments: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()
    target: TargetName = GuestSpec.target
    """Whose guests it is for."""

    def command(self) -> list[str]:
        """The command line that builds it."""
        return [
            *("cvm-harness", "build", f"--kernel={self.source}"),
            *([] if self.target is GuestSpec.target else [f"--target={self.target}"]),
            *(f"--patch={patch}" for patch in self.patches),
            *(f"--fragment={fragment}" for fragment in self.fragments),
            *(f"--set={setting}" for setting in self.settings),
        ]


@dataclass(frozen=True)
class BuiltKernel:
    """A kernel in a place of its own, where no sweep of the cache takes it away."""

    bzimage: Path
    release: str
    version: str
    record: Mapping[str, Any]
    """build.json: what went in; empty for a kernel that came built."""


@dataclass(frozen=True)
class SuiteJob:
    """Tests to run on a kernel."""

    kernel: Path
    spec: GuestSpec
    tests: tuple[str, ...]
    options: tuple[str, ...] = ()
    workers: int = 1


@dataclass(frozen=True)
class SampleJob:
    """A workload to run once in a fresh guest."""

    kernel: Path
    spec: GuestSpec
    workload: str
    options: tuple[str, ...] = ()


class Lab(Protocol):
    """Does the work. `directory` is new and gets logs and run directories."""

    def build(self, job: BuildJob, directory: Path, deadline_s: float) -> BuiltKernel:
        """Raises HarnessError: KernelBuildError's meaning is ERROR."""

    def compile(self, job: BuildJob, files: Sequence[str]) -> Mapping[str, Sequence[str]]:
        """What the compiler prints for each of `files` that the kernel's configuration compiles."""

    def suite(self, job: SuiteJob, directory: Path, deadline_s: float) -> SuiteResult:
        """Never raises for what a test or guest does."""

    def sample(self, job: SampleJob, directory: Path, deadline_s: float) -> Sample:
        """Never raises for what a guest does."""


def interpreted(argv: Sequence[str]) -> list[str]:
    """`pytest …` or `cvm-harness …` as run by this interpreter, whatever PATH says."""
    program = ["-m", "pytest"] if argv[0] == "pytest" else ["-c", _CLI]
    return [sys.executable, *program, *argv[1:]]


@dataclass
class _Log:
    """A command's output: all of it in a file, its end in memory."""

    path: Path
    notify: Notify
    tail: list[str] = field(default_factory=list)

    def run(self, argv: Sequence[str], deadline_s: float) -> int:
        """The exit code of `argv`, spelled as by hand, run by this interpreter."""
        real = interpreted(argv)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(f"$ {shlex.join(argv)}\n")

            def line(text: str) -> None:
                file.write(text + "\n")
                file.flush()
                self.tail = [*self.tail[1 - _TAIL :], text]
                self.notify(text)

            environment = {**os.environ, "PYTHONUNBUFFERED": "1", "COLUMNS": "200"}
            return run_guarded(
                real, cwd=Path.cwd(), env=environment, line=line, deadline_s=deadline_s
            )


class LocalLab:
    """The lab on this machine."""

    def __init__(self, notify: Notify = lambda _: None, *, alone: bool = True) -> None:
        """`alone`: what measures wall-clock time waits until no other guest runs on this host."""
        self._notify = notify
        self._alone = alone

    def build(self, job: BuildJob, directory: Path, deadline_s: float) -> BuiltKernel:
        """Build, or take from the cache, and keep a copy under `directory`."""
        log = _Log(directory / "build.log", self._notify)
        code = log.run(job.command(), deadline_s)
        found = next((m for text in reversed(log.tail) if (m := _BUILT.match(text))), None)
        if code or not found:
            raise failure(code, log.tail)
        return keep_kernel(Path(found["path"]), directory)

    def compile(self, job: BuildJob, files: Sequence[str]) -> Mapping[str, Sequence[str]]:
        """Compile single files anew."""
        from harness.kernel.build import compile_files
        from harness.run.session import Session

        request = Session.request_for(
            GuestSpec(job.target), job.source, job.patches, job.settings, job.fragments
        )
        return compile_files(request, files)

    def suite(self, job: SuiteJob, directory: Path, deadline_s: float) -> SuiteResult:
        """Run pytest."""
        verdicts = directory / "verdicts.jsonl"
        argv = suite_command(job, directory / "runs")
        extra = [f"--verdicts={verdicts}", f"--junit-xml={directory / 'junit.xml'}"]
        extra += ["-q", "-p", "no:cacheprovider", "--color=no"]
        extra += ["-n", str(job.workers)] if job.workers > 1 else []
        log = _Log(directory / "pytest.log", self._notify)
        started = time.monotonic()
        try:
            code: int | None = log.run([*argv, *extra], deadline_s)
            cause = ""
        except HostError as error:
            code, cause = None, error.cause
        tests: tuple[CaseVerdict, ...] = ()
        with contextlib.suppress(OSError):
            tests = parse_verdicts(verdicts.read_text(encoding="utf-8"))
        status, cause = judge_suite(code, cause, tests, log.tail)
        seconds = time.monotonic() - started
        return SuiteResult(
            *(status, cause, tests, shlex.join(argv), seconds), complete=code in _PYTEST_JUDGED
        )

    def sample(self, job: SampleJob, directory: Path, deadline_s: float) -> Sample:
        """Run the workload once."""
        runs = directory / "runs"
        argv = sample_command(job, runs)
        log = _Log(directory / "run.log", self._notify)
        exclusive = self._alone and job.spec.clock is Clock.WALL
        started = time.monotonic()
        try:
            with reserve(Claim(exclusive=exclusive), Supply(), waiting=self._notify):
                started = time.monotonic()
                code = log.run(argv, deadline_s)
        except HostError as error:
            return Sample(
                *(error.status, error.cause, {}, _newest(runs), shlex.join(argv)),
                time.monotonic() - started,
            )
        seconds = time.monotonic() - started
        run_dir = _newest(runs)
        if run_dir is None:
            said = failure(code, log.tail)
            return Sample(said.status, said.cause, {}, None, shlex.join(argv), seconds)
        view = RunView.load(run_dir)
        return Sample(
            *(view.status, view.text("cause"), metrics_of(view), run_dir, shlex.join(argv)),
            seconds,
        )


def suite_command(job: SuiteJob, runs: Path) -> list[str]:
    """The pytest command line, as one would type it."""
    guest = spec_arguments(job.spec, str(job.kernel))
    return ["pytest", *guest, f"--runs={runs}", *job.options, *job.tests]


def sample_command(job: SampleJob, runs: Path) -> list[str]:
    """The `cvm-harness run` command line, as one would type it.

    Each guest is booted: of guests restored from one snapshot all have the same boot, whose
    differences from another kernel's one boot would be taken for the kernels'.
    """
    guest = spec_arguments(job.spec, str(job.kernel))
    fixed = [f"--runs={runs}", "--snapshot=off"]
    return ["cvm-harness", "run", job.workload, *guest, *fixed, *job.options]


def judge_suite(
    code: int | None, cause: str, tests: Sequence[CaseVerdict], tail: Sequence[str]
) -> tuple[Status, str]:
    """Status and cause of a pytest run that ended with `code` (None: it was stopped). Pure."""
    if code is None or code not in _PYTEST_JUDGED:
        # What failed before it was stopped has failed.
        failed = [test for test in tests if test.status is Status.FAIL]
        if failed:
            return Status.FAIL, describe(failed[0])
        last = next((text for text in reversed(tail) if text.strip()), "it said nothing")
        return Status.MISS, cause or f"pytest ended with exit code {code}: {last}"
    judged = [test for test in tests if test.status is not Status.SKIP]
    if not tests:
        said = next((text for text in reversed(tail) if text.strip()), "")
        return (
            (Status.MISS, said) if code == Status.MISS.exit_code else (Status.ERROR, "no test ran")
        )
    if not judged:
        return Status.SKIP, f"all {len(tests)} tests were skipped"
    status = worst(test.status for test in judged)
    if status is Status.PASS:
        return status, ""
    return status, describe(next(test for test in judged if test.status is status))


def describe(test: CaseVerdict) -> str:
    """One line on a test that did not pass."""
    signals = f" [{', '.join(sorted(test.signals))}]" if test.signals else ""
    return f"{test.test}: {test.status.value}{signals}" + (f": {test.cause}" if test.cause else "")


def failure(code: int, tail: Sequence[str]) -> HarnessError:
    """What a `cvm-harness` command that ended with `code` said of the reason."""
    said = next((m for text in reversed(tail) if (m := _SAID.match(text))), None)
    last = next((text for text in reversed(tail) if text.strip()), "it said nothing")
    cause = said["cause"] if said else f"the command ended with exit code {code}: {last}"
    status = _STATUS_OF_EXIT.get(code, Status.MISS)
    kinds = {Status.ERROR: PreconditionError, Status.MISS: HostError}
    kind = UsageError if code == 2 else kinds.get(status, HostError)
    return kind(cause, details=[text for text in tail if text.startswith("  | ")])


def _newest(runs: Path) -> Path | None:
    return max((path.parent for path in runs.glob("*/run.json")), default=None)


def keep_kernel(bzimage: Path, directory: Path) -> BuiltKernel:
    """A copy of a built kernel under `directory`, laid out as packages do, so that its
    configuration and modules are found again from the image alone."""
    from harness.kernel.prebuilt import beside, read_bzimage

    image = read_bzimage(bzimage)
    config, modules = beside(bzimage, image.release)
    boot = directory / "boot"
    boot.mkdir(parents=True, exist_ok=True)
    kept = boot / f"vmlinuz-{image.release}"
    shutil.copyfile(bzimage, kept)
    if config:
        shutil.copyfile(config, boot / f"config-{image.release}")
    if modules:
        tree = directory / "lib/modules" / image.release
        shutil.copytree(modules, tree, dirs_exist_ok=True, symlinks=True)
    record: dict[str, Any] = {}
    with contextlib.suppress(OSError, ValueError):
        record = json.loads(bzimage.with_name("build.json").read_text())
    return BuiltKernel(kept.resolve(), image.release, str(image.version), record)
