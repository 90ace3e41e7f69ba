# SPDX-License-Identifier: MIT
"""Builds, suites and single measurements, each a process of its own: nothing that one does (a leak,
a crash, a hang) reaches the next, and its command can be pasted to have the result again."""

import contextlib
import os
import re
import shlex
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from harness.analysis.metrics import metrics_of
from harness.base.guarded import run_guarded
from harness.base.guest_options import spec_arguments
from harness.base.reader import read_json
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
from harness.kernel.kernel import BuildRecord
from harness.record.attempts import CaseVerdict, Sample, SuiteResult
from harness.record.view import RunView
from harness.suite.judge import parse_verdicts

_TAIL = 20
_SAID = re.compile(r"^(usage|FAIL|ERROR|MISS): (?P<cause>.+)$")
_BUILT = re.compile(r"^\S+ (?P<path>/.*)$")
_PYTEST_JUDGED = {0, 1, 3, 5, 69}
"""Exit codes of a pytest that ran its tests (README.md); 5 is "no tests"; others are usage errors
and interrupts."""

_CLI = "from harness.cli.app import main; main()"


@dataclass(frozen=True)
class BuildJob:
    source: str
    patches: tuple[Path, ...] = ()
    fragments: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()
    target: TargetName = GuestSpec.target
    """Whose guests it is for."""

    def command(self) -> list[str]:
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
    record: BuildRecord
    """What went in; empty for a kernel that came built."""


@dataclass(frozen=True)
class SuiteJob:
    kernel: Path
    spec: GuestSpec
    tests: tuple[str, ...]
    options: tuple[str, ...] = ()
    workers: int = 1


@dataclass(frozen=True)
class SampleJob:
    kernel: Path
    spec: GuestSpec
    workload: str
    options: tuple[str, ...] = ()


def interpreted(argv: Sequence[str]) -> list[str]:
    """`pytest …` or `cvm-harness …` as run by this interpreter, whatever PATH says."""
    program = ["-m", "pytest"] if argv[0] == "pytest" else ["-c", _CLI]
    return [sys.executable, *program, *argv[1:]]


@dataclass
class _Log:
    """A command's output: all of it in a file, its end in memory."""

    path: Path
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

            environment = {**os.environ, "PYTHONUNBUFFERED": "1", "COLUMNS": "200"}
            return run_guarded(
                real, cwd=Path.cwd(), env=environment, line=line, deadline_s=deadline_s
            )


class Lab:
    """Does the work, on this machine. `directory` is new and gets logs and run directories."""

    def __init__(self, *, alone: bool = True) -> None:
        """`alone`: what measures wall-clock time waits until no other guest runs on this host."""
        self._alone = alone

    def build(self, job: BuildJob, directory: Path, deadline_s: float) -> BuiltKernel:
        """Build, or take from the cache, and keep a copy under `directory`. Raises HarnessError:
        KernelBuildError's meaning is ERROR."""
        log = _Log(directory / "build.log")
        code = log.run(job.command(), deadline_s)
        found = next((m for text in reversed(log.tail) if (m := _BUILT.match(text))), None)
        if code or not found:
            raise failure(code, log.tail)
        return keep_kernel(Path(found["path"]), directory)

    def compile(self, job: BuildJob, files: Sequence[str]) -> Mapping[str, Sequence[str]]:
        """What the compiler prints for each of `files` that the kernel's configuration compiles."""
        from harness.kernel.build import compile_files
        from harness.run.session import Session

        request = Session.request_for(
            GuestSpec(job.target), job.source, job.patches, job.settings, job.fragments
        )
        return compile_files(request, files)

    def suite(self, job: SuiteJob, directory: Path, deadline_s: float) -> SuiteResult:
        """Run pytest. Never raises for what a test or guest does."""
        verdicts = directory / "verdicts.jsonl"
        argv = suite_command(job, directory / "runs")
        extra = [f"--verdicts={verdicts}", f"--junit-xml={directory / 'junit.xml'}"]
        extra += ["-q", "-p", "no:cacheprovider", "--color=no"]
        extra += ["-n", str(job.workers)] if job.workers > 1 else []
        log = _Log(directory / "pytest.log")
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
        complete = code in _PYTEST_JUDGED
        return SuiteResult(status, cause, tests, shlex.join(argv), seconds, complete)

    def sample(self, job: SampleJob, directory: Path, deadline_s: float) -> Sample:
        """Run the workload once. Never raises for what a guest does."""
        runs = directory / "runs"
        argv = sample_command(job, runs)
        command = shlex.join(argv)
        log = _Log(directory / "run.log")
        exclusive = self._alone and job.spec.clock is Clock.WALL
        started = time.monotonic()
        try:
            with reserve(Claim(exclusive=exclusive), Supply()):
                started = time.monotonic()
                code = log.run(argv, deadline_s)
            run_dir = _newest(runs)
            if run_dir is None:
                raise failure(code, log.tail)
        except HarnessError as error:
            seconds = time.monotonic() - started
            return Sample(error.status, error.cause, {}, _newest(runs), command, seconds)
        seconds = time.monotonic() - started
        view = RunView.load(run_dir)
        cause = view.text("cause")
        return Sample(view.status, cause, metrics_of(view), run_dir, command, seconds)


def suite_command(job: SuiteJob, runs: Path) -> list[str]:
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
        return Status.MISS, cause or f"pytest ended with exit code {code}: {_last(tail)}"
    judged = [test for test in tests if test.status is not Status.SKIP]
    if not tests:
        missed = code == Status.MISS.exit_code
        return (Status.MISS, _last(tail)) if missed else (Status.ERROR, "no test ran")
    if not judged:
        return Status.SKIP, f"all {len(tests)} tests were skipped"
    status = worst(test.status for test in judged)
    if status is Status.PASS:
        return status, ""
    return status, describe(next(test for test in judged if test.status is status))


def describe(test: CaseVerdict) -> str:
    signals = f" [{', '.join(sorted(test.signals))}]" if test.signals else ""
    return f"{test.test}: {test.status.value}{signals}" + (f": {test.cause}" if test.cause else "")


def failure(code: int, tail: Sequence[str]) -> HarnessError:
    """What a `cvm-harness` command that ended with `code` said of the reason."""
    said = next((m for text in reversed(tail) if (m := _SAID.match(text))), None)
    cause = said["cause"] if said else f"the command ended with exit code {code}: {_last(tail)}"
    kinds = {2: UsageError, 3: PreconditionError}
    return kinds.get(code, HostError)(
        cause, details=[text for text in tail if text.startswith("  | ")]
    )


def _last(tail: Sequence[str]) -> str:
    return next((text for text in reversed(tail) if text.strip()), "it said nothing")


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
    record = BuildRecord()
    with contextlib.suppress(UsageError):
        record = read_json(bzimage.with_name("build.json"), BuildRecord)
    return BuiltKernel(kept.resolve(), image.release, str(image.version), record)
