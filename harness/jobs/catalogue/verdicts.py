# SPDX-License-Identifier: MIT
"""What the suite's verdicts say about a bug that it should catch. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from harness.base.status import Status
from harness.jobs.catalogue.entry import Catch
from harness.record.attempts import CaseVerdict


@dataclass(frozen=True)
class Judged:
    """What one test's verdict says about the bug that it should catch."""

    verdict: CaseVerdict
    caught: bool
    signal: str
    """The reason by which it was caught; else what kept it from that."""


def judge(catch: Catch, verdict: CaseVerdict) -> Judged:
    """A bug is caught by FAIL for its own reason: any other FAIL is as good as none.

    A defect that is expected on this kernel is set aside in the verdict; its signal still shows.
    """
    if verdict.status is not Status.FAIL and not verdict.expected:
        return Judged(verdict, False, f"{verdict.status.value}, not FAIL")
    if hits := verdict.signals & catch.signals:
        return Judged(verdict, True, ", ".join(sorted(hits)))
    if verdict.status is Status.FAIL and catch.cause and re.search(catch.cause, verdict.cause):
        return Judged(verdict, True, verdict.cause)
    given = ", ".join(sorted(verdict.signals)) or verdict.cause or "no reason"
    return Judged(verdict, False, f"FAIL for another reason: {given}")


def with_test(verdicts: Iterable[CaseVerdict], test: str) -> tuple[CaseVerdict, ...]:
    """Those of `test`; one without parameters stands for all it has."""
    return tuple(
        v for v in verdicts if v.test == test or (v.test.startswith(test + "[") and "[" not in test)
    )
