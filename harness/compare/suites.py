# SPDX-License-Identifier: MIT
"""Two runs of the same tests, as on hardware and under TCG: where their verdicts differ."""

from collections.abc import Sequence
from dataclasses import dataclass

from harness.base.status import PreconditionError
from harness.record.attempts import CaseVerdict

_ABSENT = "not run"


@dataclass(frozen=True)
class Difference:
    """One test and what each run has made of it: "FAIL illegal-access", "PASS, known defect C"."""

    test: str
    a: str
    b: str


def differences(
    a: Sequence[CaseVerdict], b: Sequence[CaseVerdict]
) -> tuple[tuple[Difference, ...], int]:
    """Tests whose status, signals or known defects differ, or that one run lacks; and how many
    tests both have. Raises PreconditionError where there is none."""
    arms = [{verdict.name: _words(verdict) for verdict in arm} for arm in (a, b)]
    both = len(arms[0].keys() & arms[1].keys())
    if not both:
        raise PreconditionError(
            f"the runs have no test in common ({len(a)} and {len(b)} tests)",
            hint="both files come from `pytest --verdicts=FILE` on the same tests",
        )
    rows = [
        Difference(test, *(arm.get(test, _ABSENT) for arm in arms))
        for test in dict.fromkeys([*arms[0], *arms[1]])
    ]
    return tuple(row for row in rows if row.a != row.b), both


def _words(verdict: CaseVerdict) -> str:
    signals = " ".join([verdict.status.value, *sorted(verdict.signals)])
    known = ", ".join(sorted(verdict.expected))
    return f"{signals}, known defect {known}" if known else signals
