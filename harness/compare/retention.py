# SPDX-License-Identifier: MIT
"""Which run directories may go. Whatever their age those stay that did not pass, that such a run, a
baseline or another file of record names, or that may still be going on."""

import datetime
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from harness.base.status import HostError, Status, UsageError
from harness.base.store import tree_size
from harness.record.rundir import UNFINISHED
from harness.record.view import RUN_ID, RunView, run_directories

_RECORDS = (".json", ".jsonl", ".toml", ".md", ".txt")
_MAX_RECORD = 64 << 20
_MAY_RUN = datetime.timedelta(days=2)
_TELLING = frozenset({Status.FAIL, Status.ERROR})


@dataclass(frozen=True)
class Kept:
    """A run directory and what was decided about it."""

    path: Path
    started: datetime.datetime | None
    size: int
    """Bytes on disk."""
    pinned: str
    """Why it must stay; "" where it may go."""


def examine(root: Path, records: Iterable[Path], now: datetime.datetime) -> list[Kept]:
    """Every run directory under `root`, oldest first; `records` are directories of baselines and
    the like, whose files name runs to keep."""
    files = (path for directory in records for path in sorted(directory.rglob("*")))
    named = _named_in(path for path in files if path.suffix in _RECORDS and path.is_file())
    views: dict[Path, RunView | None] = {}
    for path in run_directories(root):
        try:
            views[path] = RunView.load(path)
        except UsageError:
            views[path] = None
    telling = [view.path for view in views.values() if view and view.status in _TELLING]
    by_failure = _named_in(path / "run.json" for path in telling)

    def pinned(path: Path, view: RunView | None) -> str:
        if view is None:
            return "its run.json cannot be read"
        if view.status in _TELLING:
            return view.status.value
        if path.name in named:
            return f"named in {named[path.name]}"
        if path.name in by_failure:
            return f"named by {by_failure[path.name].parent.name}, which did not pass"
        if view.started is None:
            return "it does not say when it ran"
        if view.get("cause") == UNFINISHED and now - view.started < _MAY_RUN:
            return "it may still be running"
        return ""

    return [
        Kept(path, view.started if view else None, tree_size(path), pinned(path, view))
        for path, view in views.items()
    ]


def _named_in(files: Iterable[Path]) -> dict[str, Path]:
    """Every run id that is named in `files`, with one file that names it. Raises HostError."""
    found: dict[str, Path] = {}
    for path in files:
        try:
            text = path.read_text(errors="replace") if path.stat().st_size <= _MAX_RECORD else ""
        except OSError as error:
            raise HostError(
                f"cannot read {path}, which may name runs to keep: {error.strerror}",
                hint="nothing was removed",
            ) from error
        for name in RUN_ID.findall(text):
            found.setdefault(name, path)
    return found


def removable(
    runs: Iterable[Kept], now: datetime.datetime, *, days: int | None, max_bytes: int | None
) -> list[Kept]:
    """Of `runs` (oldest first) those that may go and are older than `days`, or must go, oldest
    first, for the rest to fit in `max_bytes`. What is pinned counts, and stays."""
    every = list(runs)
    total = sum(run.size for run in every)
    going = []
    for run in every:
        if run.pinned or run.started is None:
            continue
        old = days is not None and now - run.started > datetime.timedelta(days=days)
        if old or (max_bytes is not None and total > max_bytes):
            going.append(run)
            total -= run.size
    return going


def remove(runs: Iterable[Kept]) -> None:
    """Delete run directories. A half-deleted one has lost its run.json first: it is no run any
    more. Raises HostError for one that cannot be deleted."""
    for run in runs:
        try:
            (run.path / "run.json").unlink()
            shutil.rmtree(run.path)
        except OSError as error:
            raise HostError(f"cannot remove {run.path}: {error.strerror}") from error
