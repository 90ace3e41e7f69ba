# SPDX-License-Identifier: MIT
"""What journals keep of builds, test runs, guests and commits that were judged."""

import enum
from collections.abc import Mapping
from pathlib import Path

from harness.base.reader import FileType
from harness.base.status import Status


class Built(FileType, frozen=True):
    """A kernel that was built, or that cannot be."""

    status: Status
    cause: str = ""
    details: tuple[str, ...] = ()
    bzimage: str = ""
    """Below the journal's directory; empty where there is none."""
    release: str = ""


class CaseVerdict(FileType, frozen=True):
    test: str
    """pytest node id."""
    status: Status
    signals: frozenset[str]
    """Signals of the checks that failed (docs/suite.md)."""
    cause: str
    seconds: float
    """Set-up (a boot) and call."""
    expected: frozenset[str] = frozenset()
    """Known defects (expectations.toml) that showed and were set aside."""

    @property
    def name(self) -> str:
        """Without the directory: "test_file.py::test_name"."""
        return self.test.rsplit("/", 1)[-1]


class CaseLine(FileType, frozen=True):
    """A line of a --verdicts file: one phase of a test that ended."""

    test: str
    status: Status
    signals: tuple[str, ...]
    expected: tuple[str, ...]
    cause: str
    setup_s: float
    call_s: float
    when: str = "call"
    """pytest's phase: setup, call or teardown."""
    outcome: str = ""
    """pytest's own word: passed, failed or skipped."""

    @property
    def verdict(self) -> CaseVerdict:
        """The test's, as far as this line knows it."""
        signals, expected = frozenset(self.signals), frozenset(self.expected)
        seconds = self.setup_s + self.call_s
        return CaseVerdict(self.test, self.status, signals, self.cause, seconds, expected)


class SuiteResult(FileType, frozen=True):
    status: Status
    cause: str
    tests: tuple[CaseVerdict, ...]
    command: str
    seconds: float
    complete: bool = True
    """Whether pytest ran to its end; if not, tests may be missing."""


class Sample(FileType, frozen=True):
    """One fresh guest: its outcome and its figures."""

    status: Status
    cause: str
    metrics: Mapping[str, float]
    run_dir: Path | None
    command: str
    seconds: float


class Word(enum.StrEnum):
    """What git bisect is told."""

    GOOD = "good"
    BAD = "bad"
    SKIP = "skip"


class Answer(FileType, frozen=True):
    word: Word
    reason: str
    evidence: tuple[str, ...] = ()
    """Commands that show it, run directories."""


class Compiled(FileType, frozen=True):
    """What the compiler printed for single files."""

    printed: Mapping[str, tuple[str, ...]]
