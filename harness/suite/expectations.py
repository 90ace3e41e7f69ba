# SPDX-License-Identifier: MIT
"""Expected defects: data with a reason and a version range, read from expectations.toml."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from harness.base.reader import FileType, read_toml
from harness.kernel.version import Ranged, Version

EXPECTATIONS = Path(__file__).with_name("expectations.toml")


class Expectation(Ranged, frozen=True):
    """One defect that is known, in the tests and on the kernels where it shows."""

    id: str
    tests: tuple[str, ...]
    """Shell patterns over "test_file.py::test_name[parameters]"."""
    signals: frozenset[str]
    reason: str
    finding: str = ""
    strict: bool = True
    """Whether the defect must show in each of `tests`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.tests or not self.signals:
            raise ValueError("tests and signals must not be empty")

    def describe(self) -> str:
        """One line for reports."""
        where = f" ({self.finding})" if self.finding else ""
        return f"known defect {self.id}: {self.reason}{where}"

    def concerns(self, test: str, version: Version) -> bool:
        """Whether it is expected in `test` on a kernel of `version`."""
        return version in self.versions and any(fnmatchcase(test, p) for p in self.tests)


@dataclass(frozen=True)
class Ruling:
    """What expectations make of one test's failing signals."""

    expected: tuple[Expectation, ...]
    """Those that account for a signal."""
    unexpected: frozenset[str]
    """Signals that none accounts for."""
    absent: tuple[Expectation, ...]
    """Strict ones whose signals did not show."""


def rule(
    signals: Collection[str], test: str, version: Version, known: Iterable[Expectation]
) -> Ruling:
    """Judge the failing `signals` of `test` on a kernel of `version`."""
    mine = [entry for entry in known if entry.concerns(test, version)]
    expected = tuple(entry for entry in mine if entry.signals & set(signals))
    covered = frozenset[str]().union(*(entry.signals for entry in expected))
    absent = tuple(entry for entry in mine if entry.strict and not entry.signals & set(signals))
    return Ruling(expected, frozenset(signals) - covered, absent)


class _File(FileType, frozen=True):
    expectation: tuple[Expectation, ...] = ()


def load_expectations(path: Path = EXPECTATIONS) -> tuple[Expectation, ...]:
    """All entries of `path`. Raises UsageError naming the entry and what is wrong with it."""
    return read_toml(path, _File, hint="docs/suite.md").expectation
