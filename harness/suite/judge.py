# SPDX-License-Identifier: MIT
"""From the checks of one test to its verdict: status, signals, and what was expected; and verdicts
as `pytest --verdicts=FILE` has written them. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated

import msgspec

from harness.base.reader import FileType, parse_json, read_toml
from harness.base.spec import TargetName
from harness.base.status import HostError, Status, UsageError, worst
from harness.kernel.version import Ranged, Version
from harness.record.attempts import CaseLine, CaseVerdict
from harness.record.check import Check

INTACT = frozenset({"waiting", "neighbour-wait", "boot-budget"})
"""Signals that say how long something took or how much it was: the guest itself is as it should be.

Where they are known defects the next test can use it.
"""


EXPECTATIONS = Path(__file__).with_name("expectations.toml")


class Expectation(Ranged, frozen=True):
    """One defect that is known, in the tests and on the kernels where it shows."""

    id: str
    tests: tuple[str, ...]
    """Shell patterns over "test_file.py::test_name[parameters]"."""
    reason: str
    signals: frozenset[str] = frozenset()
    finding: str = ""
    strict: bool = True
    """Whether the defect must show in each of `tests`."""
    targets: frozenset[TargetName] = frozenset()
    """Where it is expected; empty: on all."""
    at_most: dict[str, Annotated[int, msgspec.Meta(ge=0)]] = msgspec.field(default_factory=dict)
    """How often random sequences may do an operation: done once more, it ends their guest."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.tests or not (self.signals or self.at_most):
            raise ValueError("tests, and signals or at_most, must not be empty")

    def describe(self) -> str:
        where = f" ({self.finding})" if self.finding else ""
        return f"known defect {self.id}: {self.reason}{where}"

    def concerns(self, test: str, version: Version) -> bool:
        """Whether it is expected in `test` on a kernel of `version`."""
        return version in self.versions and any(fnmatchcase(test, p) for p in self.tests)


class _File(FileType, frozen=True):
    expectation: tuple[Expectation, ...] = ()


def expected_on(target: TargetName, path: Path = EXPECTATIONS) -> tuple[Expectation, ...]:
    """The entries that are for guests of `target`."""
    return tuple(e for e in load_expectations(path) if target in (e.targets or {target}))


def load_expectations(path: Path = EXPECTATIONS) -> tuple[Expectation, ...]:
    """All entries of `path`. Raises UsageError naming the entry and what is wrong with it."""
    return read_toml(path, _File, hint="docs/suite.md").expectation


@dataclass(frozen=True)
class Judgement:
    status: Status
    """Of all checks, expected defects left aside."""
    signals: tuple[str, ...]
    """Of every check that failed, expected or not."""
    expected: tuple[Expectation, ...]
    """Known defects that showed."""
    cause: str
    details: tuple[str, ...]


def judge_test(
    checks: Sequence[Check], test: str, version: Version, known: Iterable[Expectation]
) -> Judgement:
    """The verdict of `test`, as seen on a kernel of `version`."""
    failed = [check for check in checks if check.status is Status.FAIL]
    signals = tuple(dict.fromkeys(check.signal or "unnamed" for check in failed))
    mine = [entry for entry in known if entry.concerns(test, version)]
    expected = tuple(entry for entry in mine if entry.signals.intersection(signals))
    covered = frozenset[str]().union(*(entry.signals for entry in expected))
    left = [check for check in failed if (check.signal or "unnamed") not in covered]
    left += [check for check in checks if check.status not in (Status.FAIL, Status.PASS)]
    if not left:
        shows = (entry for entry in mine if entry.strict and entry.signals)
        left += _absent(entry for entry in shows if entry not in expected)
    passed = [check for check in checks if check.status is Status.PASS]
    status = worst(check.status for check in left or passed)
    cause = next((f"{c.name}: {c.detail}" for c in left if c.status is status), "")
    return Judgement(
        status,
        signals,
        expected,
        cause,
        tuple(f"{c.status.value} [{c.signal}] {c.name}: {c.detail}" for c in left),
    )


def limits(test: str, version: Version, known: Iterable[Expectation]) -> dict[str, int]:
    """How often random sequences in `test` may do an operation: those with a limit."""
    found: dict[str, int] = {}
    for entry in known:
        if entry.concerns(test, version):
            for name, times in entry.at_most.items():
                found[name] = min(times, found.get(name, times))
    return found


def _absent(entries: Iterable[Expectation]) -> list[Check]:
    """A known defect that no longer shows is a failure until its expectation is taken out."""
    return [
        Check(
            f"known defect {entry.id} shows",
            Status.FAIL,
            f"it did not: if it is fixed, end its version range in expectations.toml "
            f"({entry.reason})",
            "unexpected-pass",
        )
        for entry in entries
    ]


def parse_verdicts(text: str) -> tuple[CaseVerdict, ...]:
    """The verdicts in a --verdicts file. Raises HostError for a line that is none. A test may have
    more than one line (its call, and a teardown that failed): the worst counts."""
    found: dict[str, list[CaseVerdict]] = {}
    for number, line in enumerate(text.splitlines(), 1):
        try:
            verdict = parse_json(line, CaseLine, f"line {number} of the verdicts").verdict
        except UsageError as error:
            raise HostError(error.cause) from error
        found.setdefault(verdict.test, []).append(verdict)
    return tuple(_joined(verdicts) for verdicts in found.values())


def _joined(verdicts: Sequence[CaseVerdict]) -> CaseVerdict:
    status = worst(verdict.status for verdict in verdicts)
    decisive = next(verdict for verdict in verdicts if verdict.status is status)
    return CaseVerdict(
        decisive.test,
        status,
        frozenset[str]().union(*(verdict.signals for verdict in verdicts)),
        decisive.cause,
        sum(verdict.seconds for verdict in verdicts),
        frozenset[str]().union(*(verdict.expected for verdict in verdicts)),
    )
