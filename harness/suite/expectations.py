# SPDX-License-Identifier: MIT
"""Expected defects: data with a reason and a version range, read from expectations.toml."""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from harness.base.status import UsageError
from harness.kernel.version import Version, VersionRange

EXPECTATIONS = Path(__file__).with_name("expectations.toml")
_REQUIRED = {"id", "tests", "signals", "reason"}
_OPTIONAL = {"since", "before", "finding", "strict"}


@dataclass(frozen=True)
class Expectation:
    """One defect that is known, in the tests and on the kernels where it shows."""

    id: str
    tests: tuple[str, ...]
    """Shell patterns over "test_file.py::test_name[parameters]"."""
    signals: frozenset[str]
    versions: VersionRange
    reason: str
    finding: str = ""
    strict: bool = True
    """Whether the defect must show in each of `tests`."""

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


def load_expectations(path: Path = EXPECTATIONS) -> tuple[Expectation, ...]:
    """All entries of `path`. Raises UsageError naming the entry and what is wrong with it."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{path}: {error}") from error
    if unknown := content.keys() - {"expectation"}:
        raise UsageError(f"{path}: unknown table {sorted(unknown)}", hint="use [[expectation]]")
    entries = content.get("expectation", [])
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise UsageError(f"{path}: expectation must be [[expectation]] tables")
    return tuple(_entry(entry, path) for entry in entries)


def _entry(entry: Mapping[str, Any], path: Path) -> Expectation:
    name = entry.get("id", "?")
    missing, unknown = _REQUIRED - entry.keys(), entry.keys() - _REQUIRED - _OPTIONAL
    if missing or unknown:
        wrong = ", ".join([*(f"no {k}" for k in missing), *(f"unknown key {k}" for k in unknown)])
        raise UsageError(f"{path}: expectation {name!r}: {wrong}")
    for key in ("id", "reason", "finding", "since", "before"):
        if not isinstance(entry.get(key, ""), str):
            raise UsageError(f"{path}: expectation {name!r}: {key} must be text")
    if not isinstance(entry.get("strict", True), bool):
        raise UsageError(f"{path}: expectation {name!r}: strict must be true or false")
    return Expectation(
        id=name,
        tests=_words(entry["tests"], path, name),
        signals=frozenset(_words(entry["signals"], path, name)),
        versions=VersionRange(
            *(Version.parse(entry[end]) if entry.get(end) else None for end in ("since", "before"))
        ),
        reason=entry["reason"],
        finding=entry.get("finding", ""),
        strict=entry.get("strict", True),
    )


def _words(value: object, path: Path, name: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not value or not all(isinstance(word, str) for word in value):
        raise UsageError(f"{path}: expectation {name!r}: tests and signals are lists of words")
    return tuple(value)
