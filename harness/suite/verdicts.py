# SPDX-License-Identifier: MIT
"""Tests' verdicts, as `pytest --verdicts=FILE` writes them. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from harness.base.reader import parse_json
from harness.base.status import HostError, UsageError, worst
from harness.record.attempts import CaseLine, CaseVerdict


def parse_verdicts(text: str) -> tuple[CaseVerdict, ...]:
    """The verdicts in a --verdicts file. Raises HostError for a line that is none.

    A test may have more than one line (its call, and a teardown that failed): the worst counts.
    """
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
