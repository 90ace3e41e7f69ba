# SPDX-License-Identifier: MIT
"""The outcome of a checked series: series.json, as `series` writes it and the report reads it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.base.reader import FileType, read_json
from harness.base.status import Status
from harness.record.comparison import Comparison
from harness.record.view import dig

FILE = "series.json"


class CommitResult(FileType, frozen=True):
    name: str
    title: str
    status: Status
    cause: str
    warnings: tuple[str, ...] = ()
    """New ones, in the files it touches."""
    not_compiled: tuple[str, ...] = ()
    """C files it touches that this configuration does not compile."""
    tests: str = ""
    cost: float | None = None
    """Mean over its guests."""
    change: Comparison | None = None
    """Against the commit before."""
    total: Comparison | None = None
    """Against the base."""
    flakes: tuple[str, ...] = ()


class SeriesResults(FileType, frozen=True):
    """A series, the base first."""

    series: str
    """As it was given: a range, or files of patches."""
    check: Mapping[str, Any]
    """What every commit had to do (harness/jobs/series/series.py)."""
    rows: tuple[CommitResult, ...]

    @property
    def metric(self) -> str:
        """What the cost of a commit is; empty where none was measured."""
        return str(dig(self.check, "cost", "metric") or "")


def load_series(directory: Path) -> SeriesResults:
    """The results in a checked series' directory. Raises UsageError where they cannot be read."""
    again = f"cvm-harness series with --directory={directory} makes them anew from the journal"
    return read_json(directory / FILE, SeriesResults, again)
