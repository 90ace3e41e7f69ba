# SPDX-License-Identifier: MIT
"""From a night's journal back to results. Pure, but for the verdict files that it names."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

from harness.base.status import Status
from harness.jobs.lab import SuiteResult
from harness.record.journal import Event, Journal
from harness.suite.verdicts import CaseVerdict


def suite_result(event: Event) -> SuiteResult:
    """The attempt that an event records."""
    return SuiteResult(
        Status(event["status"]),
        event["cause"],
        tuple(
            CaseVerdict(
                test["test"],
                Status(test["status"]),
                frozenset(test["signals"]),
                test["cause"],
                test["seconds"],
            )
            for test in event["tests"]
        ),
        event["command"],
        event["seconds"],
        event["complete"],
    )


def known_defects(directory: Path, journal: Journal, cell: str) -> list[str]:
    """Ids of the expected defects (harness/suite/expectations.toml) that showed in a cell."""
    found: set[str] = set()
    for event in journal.of("attempt", cell=cell):
        with contextlib.suppress(OSError, ValueError, TypeError):
            text = (directory / event["place"] / "verdicts.jsonl").read_text(encoding="utf-8")
            for line in text.splitlines():
                found |= set(map(str, json.loads(line).get("expected", [])))
    return sorted(found)
