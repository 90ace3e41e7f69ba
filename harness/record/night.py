# SPDX-License-Identifier: MIT
"""The outcome of a night: night.json (docs/nightly.md), as it is written and read."""

import enum
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Literal

from harness.base.reader import FileType, read_json
from harness.base.status import Status
from harness.record.comparison import Comparison

FILE = "night.json"
SCHEMA: Final = 1


class CellKind(enum.StrEnum):
    BUILD = "build"
    SUITE = "suite"
    """Functional: pytest, judged by its tests."""
    MEASURE = "measure"
    """Timed: fresh guests one at a time, judged by comparison."""


class Flake(FileType, frozen=True):
    """A test whose outcome was not the same each time."""

    test: str
    statuses: tuple[Status, ...]
    cause: str

    @property
    def counted(self) -> Status:
        """What it counts as. A FAIL is evidence against the kernel however rarely it shows; a test
        that could not judge, and then could, has judged."""
        return Status.FAIL if Status.FAIL in self.statuses else Status.PASS

    def describe(self) -> str:
        return f"{self.test}: {', '.join(status.value for status in self.statuses)}"


class Ending(FileType, frozen=True, omit_defaults=True):
    """How a cell ended, in the journal. Of builds, suites and measurements each has its own."""

    status: Status
    cause: str
    hint: str = ""
    details: tuple[str, ...] = ()
    command: str = ""
    """How to do it again by hand."""
    place: str = ""
    """Of a build: its directory, below the night's, as `bzimage` and `patches` are."""
    bzimage: str = ""
    release: str = ""
    version: str = ""
    source: Mapping[str, Any] = {}
    patches: tuple[str, ...] = ()
    objects_compiled: int | None = None
    failed: tuple[str, ...] = ()
    """Of a suite: tests that failed, one line each."""
    flakes: tuple[Flake, ...] = ()
    known: tuple[str, ...] = ()
    counts: Mapping[str, int] = {}
    pairs: int = 0
    """Of a measurement: guests of each kernel."""
    run_dir: Path | None = None
    """Of a guest that came to no figures."""


class CellResult(FileType, frozen=True):
    key: str
    kind: CellKind
    kernel: str
    base: str | None
    config: str
    guest: Mapping[str, str | int | bool]
    work: str
    """The suite's or workload's name; empty for a build."""
    status: Status
    cause: str
    done: bool
    seconds: float = 0.0
    command: str = ""
    places: tuple[str, ...] = ()
    """Directories of its attempts, below the night's."""
    failed: tuple[str, ...] = ()
    flakes: tuple[Flake, ...] = ()
    known: tuple[str, ...] = ()
    """Expected defects that showed."""
    counts: Mapping[str, int] = {}
    """Tests by status."""
    release: str = ""
    """Of a build."""
    comparisons: tuple[Comparison, ...] = ()
    values: Mapping[str, Mapping[str, tuple[float, ...]]] = {}
    """Of a measured cell: metric -> kernel -> one value per guest."""

    @property
    def regressed(self) -> bool:
        """Whether a comparison says that the patched kernel is worse."""
        return any(comparison.regressed for comparison in self.comparisons)


class NightResults(FileType, frozen=True):
    schema: Literal[1]
    plan: str
    started_utc: str
    ended_utc: str
    finished: bool
    status: Status
    cause: str
    counts: Mapping[str, int]
    """Cells by status."""
    cells: tuple[CellResult, ...]
    interruptions: int
    """How often the night was taken up again."""

    def run_directories(self, night: Path) -> Iterator[Path]:
        """The run directories of the cells' attempts in the directory `night`, where they still
        are."""
        for cell in self.cells:
            for place in cell.places:
                directory = (night / place).resolve()
                if directory.is_relative_to(night.resolve()):
                    for record in sorted(directory.rglob("run.json")):
                        yield record.parent


def load_night(directory: Path) -> NightResults:
    """The results in a night's directory. Raises UsageError where they cannot be read."""
    again = f"cvm-harness nightly --resume {directory} makes them anew from the journal"
    return read_json(directory / FILE, NightResults, again)
