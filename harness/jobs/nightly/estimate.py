# SPDX-License-Identifier: MIT
"""How long cells will take: from nights that are over, never from a guess."""

import contextlib
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.base.reader import read_json
from harness.base.status import UsageError
from harness.jobs.nightly.plan import Cell
from harness.kernel.kernel import BuildRecord
from harness.record.journal import JOURNAL, Event, read_events
from harness.record.night import CellKind


@dataclass(frozen=True)
class Estimate:
    seconds: float
    basis: str
    """What it rests on."""


@dataclass(frozen=True)
class Past:
    """Durations in seconds that were seen."""

    cells: Mapping[str, Sequence[float]]
    """By `Cell.like`; of measurements, per guest."""
    builds: Sequence[float]
    """Of whole kernel builds."""

    def estimate(self, cell: Cell) -> Estimate | None:
        """The median of what was seen of cells like this one; None if nothing was."""
        if cell.skip:
            return None
        seen = self.cells.get(cell.like)
        if seen:
            arms = 2 if cell.base else 1
            guests = arms * cell.workload.repetitions if cell.workload else 1
            return Estimate(statistics.median(seen) * guests, f"{len(seen)} before")
        if cell.kind is CellKind.BUILD and self.builds:
            return Estimate(statistics.median(self.builds), f"{len(self.builds)} builds in cache")
        return None


def past_of(nights: Path, store_entries: Path) -> Past:
    """What the nights under `nights` and the kernels in the store took."""
    cells: dict[str, list[float]] = defaultdict(list)
    for journal in sorted(nights.glob(f"*/{JOURNAL}")):
        with contextlib.suppress(OSError, UsageError):  # a damaged night tells nothing
            for like, seconds in durations(read_events(journal)):
                cells[like].append(seconds)
    builds = []
    for record in store_entries.glob("kernel/*/build.json"):
        with contextlib.suppress(UsageError):
            facts = read_json(record, BuildRecord)
            if facts.make_s:
                builds.append(facts.make_s + facts.sync_s)
    return Past(cells, builds)


def durations(events: Iterable[Event]) -> Iterable[tuple[str, float]]:
    """(Cell.like, seconds) of each cell that ended; of measurements, each guest."""
    for event in events:
        like, seconds = event.get("like"), event.get("seconds")
        if isinstance(like, str) and isinstance(seconds, int | float) and seconds > 0:
            yield like, float(seconds)
