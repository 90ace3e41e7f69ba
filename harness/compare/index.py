# SPDX-License-Identifier: MIT
"""An index over run directories, which saves reading a thousand small files for a line of history.
If it is missing, damaged or of another version it is made anew from them."""

import contextlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import msgspec

from harness.analysis.metrics import metrics_of
from harness.base.status import Status, UsageError
from harness.record.view import RunView, run_directories

FILE = ".index.json"


@dataclass(frozen=True)
class Row:
    id: str
    started_utc: str
    duration_s: float | None
    status: str
    cause: str
    target: str
    kernel: str
    memory_bytes: int | None
    vcpus: int | None
    accept: str
    accel: str
    clock: str
    cost: str
    workload: str


@dataclass(frozen=True)
class Filter:
    """Which runs are wanted; empty fields let all pass."""

    status: tuple[Status, ...] = ()
    target: str = ""
    kernel: str = ""
    """Part of the kernel release."""
    workload: str = ""
    accept: str = ""
    since: str = ""
    """First UTC day or moment, ISO 8601."""
    cause: str = ""
    """Part of the cause."""

    def passes(self, row: Row) -> bool:
        return (
            (not self.status or Status(row.status) in self.status)
            and self.target in ("", row.target)
            and self.workload in ("", row.workload)
            and self.accept in ("", row.accept)
            and self.kernel in row.kernel
            and self.cause in row.cause
            and self.since <= row.started_utc
        )


@dataclass(frozen=True)
class Point:
    row: Row
    value: float


@dataclass(frozen=True)
class _Entry:
    """One run directory, as it was when run.json and workload.json had this stamp."""

    stamp: str
    row: Row | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    why_unreadable: str = ""


_Stored = tuple[Literal[1], dict[str, _Entry]]
"""The version of the format, and the run directories by name."""


class Index:
    """What is known of the runs in one directory. Made by `index_of`."""

    def __init__(self, entries: Mapping[str, _Entry]) -> None:
        self._entries = entries

    def runs(self, wanted: Filter = Filter(), limit: int = 0) -> list[Row]:
        """The runs that `wanted` lets pass, oldest first; the last `limit` of them, 0 for all."""
        rows = [row for row, _ in self._passing(wanted)]
        return rows[-limit:] if limit > 0 else rows

    def history(self, metric: str, wanted: Filter = Filter()) -> list[Point]:
        """The values of `metric`, oldest first."""
        return [
            Point(row, metrics[metric])
            for row, metrics in self._passing(wanted)
            if metric in metrics
        ]

    def unreadable(self) -> list[tuple[str, str]]:
        """Directories that hold a run.json which cannot be read, and why."""
        return [(name, e.why_unreadable) for name, e in self._entries.items() if e.row is None]

    def _passing(self, wanted: Filter) -> Sequence[tuple[Row, Mapping[str, float]]]:
        found = [(e.row, e.metrics) for e in self._entries.values() if e.row]
        passing = [one for one in found if wanted.passes(one[0])]
        return sorted(passing, key=lambda one: (one[0].started_utc, one[0].id))


def row_of(run: RunView) -> Row:
    return Row(
        id=run.id,
        started_utc=run.text("started_utc"),
        duration_s=run.duration_s,
        status=run.status.value,
        cause=run.text("cause"),
        target=run.text("spec", "target"),
        kernel=run.text("kernel", "release") or run.text("kernel", "version"),
        memory_bytes=run.integer("spec", "memory"),
        vcpus=run.integer("spec", "vcpus"),
        accept=run.text("spec", "accept"),
        accel=run.text("spec", "accel"),
        clock=run.text("spec", "clock"),
        cost=run.text("spec", "emulation", "cost", "name"),
        workload=run.workload_name,
    )


def index_of(root: Path) -> Index:
    """The up-to-date index of the run directories in `root`. Raises UsageError where `root` is no
    directory. Where it cannot be written nothing is kept."""
    if not root.is_dir():
        raise UsageError(f"{root} is not a directory of runs", hint="name the one with --runs DIR")
    known = _read(root / FILE)
    entries = {path.name: _entry(path, known.get(path.name)) for path in run_directories(root)}
    if entries != known:
        temporary = root / f"{FILE}.{os.getpid()}"
        with contextlib.suppress(OSError, UnicodeEncodeError):
            temporary.write_bytes(msgspec.json.encode((1, entries)))
            temporary.replace(root / FILE)
        with contextlib.suppress(OSError):
            temporary.unlink()  # what did not become the index, on a full disk
    return Index(entries)


def _read(file: Path) -> dict[str, _Entry]:
    try:
        return msgspec.json.decode(file.read_bytes(), type=_Stored)[1]
    except (OSError, msgspec.DecodeError):  # missing, damaged, or of another version
        return {}


def _entry(path: Path, known: _Entry | None) -> _Entry:
    stamp = _stamp(path)
    if known and known.stamp == stamp:
        return known
    try:
        run = RunView.load(path)
    except UsageError as error:
        return _Entry(stamp, why_unreadable=error.cause)
    return _Entry(stamp, row_of(run), metrics_of(run))


def _stamp(path: Path) -> str:
    """Changes whenever run.json or workload.json does: both are replaced by rename."""
    parts = []
    for name in ("run.json", "workload.json"):
        try:
            stat = (path / name).stat()
        except OSError:
            continue
        parts.append(f"{stat.st_ino}.{stat.st_size}.{stat.st_mtime_ns}")
    return "/".join(parts)
