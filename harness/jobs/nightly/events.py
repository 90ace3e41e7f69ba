# SPDX-License-Identifier: MIT
"""From a night's journal back to results. Pure, but for the verdict files that it names."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

from harness.record.journal import Journal


def known_defects(directory: Path, journal: Journal, cell: str) -> tuple[str, ...]:
    """Ids of the expected defects (harness/suite/expectations.toml) that showed in a cell."""
    found: set[str] = set()
    for event in journal.of("attempt", cell=cell):
        with contextlib.suppress(OSError, ValueError, TypeError):
            text = (directory / event["place"] / "verdicts.jsonl").read_text(encoding="utf-8")
            for line in text.splitlines():
                found |= set(map(str, json.loads(line).get("expected", [])))
    return tuple(sorted(found))
