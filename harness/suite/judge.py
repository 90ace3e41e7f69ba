# SPDX-License-Identifier: MIT
"""From the checks of one test to its verdict: status, signals, and what was expected. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from harness.base.status import Status, worst
from harness.kernel.version import Version
from harness.record.check import Check
from harness.suite.expectations import Expectation, rule

INTACT = frozenset({"waiting", "neighbour-wait", "boot-budget"})
"""Signals that say how long something took or how much it was: the guest itself is as it should be.

Where they are known defects the next test can use it.
"""


@dataclass(frozen=True)
class Judgement:
    """The outcome of one test."""

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
    ruling = rule(signals, test, version, known)
    left = [check for check in failed if (check.signal or "unnamed") in ruling.unexpected]
    left += [check for check in checks if check.status not in (Status.FAIL, Status.PASS)]
    left += _absent(ruling.absent if not left else ())
    passed = [check for check in checks if check.status is Status.PASS]
    status = worst(check.status for check in left or passed)
    cause = next((f"{c.name}: {c.detail}" for c in left if c.status is status), "")
    return Judgement(
        status,
        signals,
        ruling.expected,
        cause,
        tuple(f"{c.status.value} [{c.signal}] {c.name}: {c.detail}" for c in left),
    )


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
