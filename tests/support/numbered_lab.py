# SPDX-License-Identifier: MIT
"""A repository whose commits are numbered, and a lab that answers by that number."""

import subprocess
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from harness.base.status import Status
from harness.jobs.lab import BuildJob, BuiltKernel, Lab, SampleJob, SuiteJob, judge_suite
from harness.kernel.kernel import BuildRecord
from harness.kernel.make import KernelBuildError
from harness.record.attempts import CaseVerdict, Sample, SuiteResult


def run_git(repo: Path, *argv: str) -> str:
    identity = ["-c", "user.name=T", "-c", "user.email=t@example.org"]
    command = ["git", "-C", str(repo), *identity, *argv]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def numbered_repository(path: Path, commits: int) -> Path:
    """Commits 0 to `commits`, tagged c0 and so on; commit n holds the number n in mm/number.c."""
    (path / "mm").mkdir(parents=True)
    run_git(path, "init", "-q", "-b", "main")
    for number in range(commits + 1):
        (path / "mm/number.c").write_text(f"{number}\n")
        run_git(path, "add", "mm")
        run_git(path, "commit", "-q", "-m", f"change {number}")
        run_git(path, "tag", f"c{number}")
    return path


class Killed(BaseException):
    """SIGKILL, as far as a test in the same process can have it."""


@dataclass
class FakeLab(Lab):
    """Builds, tests and measures by the number of the commit."""

    repo: Path
    test: Callable[[int], tuple[Status, str]] = lambda number: (Status.PASS, "")
    cost: Callable[[int], float] = lambda number: 1e9
    unbuildable: tuple[int, ...] = ()
    warnings: dict[int, list[str]] = field(default_factory=dict)
    """What the compiler prints for every file, by the number of the commit."""
    dies_at: int | None = None
    built: list[int] = field(default_factory=list)
    runs: Counter[int] = field(default_factory=Counter)
    calls: int = 0

    def _call(self) -> None:
        if self.calls == self.dies_at:
            raise Killed
        self.calls += 1

    def number(self, job: BuildJob) -> int:
        """Of the commit that `job` builds."""
        commit = job.source.rpartition("@")[2]
        return int(run_git(self.repo, "show", f"{commit}:mm/number.c")) + len(job.patches)

    def build(self, job: BuildJob, directory: Path, deadline_s: float) -> BuiltKernel:
        self._call()
        number = self.number(job)
        self.built.append(number)
        if number in self.unbuildable:
            raise KernelBuildError(f"the kernel does not build: mm/x.c:{number}:1: error")
        image = directory / "boot" / "vmlinuz"
        image.parent.mkdir()
        image.write_text(str(number))
        return BuiltKernel(image, "r", "6.12.1", BuildRecord())

    def compile(self, job: BuildJob, files: Sequence[str]) -> dict[str, list[str]]:
        self._call()
        number = self.number(job)
        printed = [f"  CC      mm/number.o {number}", *self.warnings.get(number, [])]
        return {file: printed for file in files if file.startswith("mm/")}

    def suite(self, job: SuiteJob, directory: Path, deadline_s: float) -> SuiteResult:
        self._call()
        number = int(job.kernel.read_text())
        self.runs[number] += 1
        status, cause = self.test(number)
        tests = (CaseVerdict("t.py::a", status, frozenset(), cause, 1.0),)
        return SuiteResult(*judge_suite(0, "", tests, ()), tests, f"pytest {number}", 1.0)

    def sample(self, job: SampleJob, directory: Path, deadline_s: float) -> Sample:
        self._call()
        number = int(job.kernel.read_text())
        self.runs[number] += 1
        status, cause = self.test(number)
        value = self.cost(number) * (1 + self.runs[number] * 1e-6)
        metrics = {"cost.workload": value} if status is Status.PASS else {}
        return Sample(status, cause, metrics, None, f"run {number}", 1.0)
