# SPDX-License-Identifier: MIT
"""What the page shows, gathered from run directories. The template only lays it out."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.base.status import HarnessError, Status, worst
from harness.base.text import inert
from harness.base.units import format_size
from harness.compare.history import MetricHistory
from harness.compare.index import Row, row_of
from harness.kernel.addresses import annotate
from harness.record.night import CellResult, load_night
from harness.record.series import CommitResult, load_series
from harness.record.view import RunView
from harness.report.html.figure import Figure
from harness.report.html.measured import cost_figures, series_figures, trend_figures
from harness.report.html.run_figures import Calls, overlay
from harness.report.html.sections import RunSection, section

MAX_DETAILED = 12
"""Runs that get a section with plots of their own; the others are a line in the table."""
_POINTS = 3000
"""Points of a curve when there is one run; shared out among more."""
_PARTS = ("spec", "kernel", "image", "qemu", "accel", "host", "firmware", "cost_model")
_COMMAND = "command_line"
"""Of QEMU's arguments only those are shown that the other run has not."""
_PLACES = frozenset({"bzimage", "config", "path", "modules"})
"""Where things lie says nothing about what they are: digests do."""
_RANK = {status: place for place, status in enumerate(Status)}


@dataclass(frozen=True)
class Attention:
    """Something a person should look at, most urgent first."""

    status: str
    """A status, or "regressed" or "flaky"."""
    title: str
    cause: str
    lines: tuple[str, ...] = ()
    rerun: str = ""
    anchor: str = ""


@dataclass(frozen=True)
class Page:
    title: str
    subtitle: str
    verdict: str
    counts: tuple[tuple[str, int], ...]
    counted: str
    """What `counts` counts."""
    attention: tuple[Attention, ...]
    rows: tuple[Row, ...]
    sections: tuple[RunSection, ...]
    overlay: tuple[Figure, ...] = ()
    trends: tuple[Figure, ...] = ()
    costs: tuple[Figure, ...] = ()
    environment: tuple[tuple[str, str, str], ...] = ()
    compared_runs: tuple[str, str] | None = None
    cells: tuple[CellResult, ...] = ()
    commits: tuple[CommitResult, ...] = ()

    @property
    def figures(self) -> list[Figure]:
        of_runs = [figure for one in self.sections for figure in one.plots]
        return [*self.costs, *self.overlay, *self.trends, *of_runs]


def runs_page(views: Sequence[RunView], trends: Sequence[MetricHistory] = ()) -> Page:
    """A page about single runs; two are compared."""
    ordered = sorted(views, key=lambda view: _RANK[view.status])  # stable: by urgency, then given
    sections, calls = _sections(ordered)
    pair = (views[0], views[1]) if len(views) == 2 else None
    return Page(
        title=views[0].id if len(views) == 1 else f"{len(views)} runs",
        subtitle=" against ".join(_label(view) for view in views) if len(views) <= 2 else "",
        verdict=ordered[0].status.value,
        counts=_counts([view.status for view in views]),
        counted="runs",
        attention=tuple(_of_run(view) for view in ordered if _telling(view.status)),
        rows=tuple(row_of(view) for view in ordered),
        sections=sections,
        overlay=tuple(overlay(calls)) if len(calls) > 1 else (),
        trends=tuple(trend_figures(trends)),
        environment=tuple(differences(*pair)) if pair else (),
        compared_runs=(pair[0].id, pair[1].id) if pair else None,
    )


def night_page(directory: Path, trends: Sequence[MetricHistory] = ()) -> Page:
    """The night in `directory`: its cells, then the runs that tell why. Raises UsageError."""
    night = load_night(directory)
    cells = sorted(night.cells, key=_urgency)
    views = []
    for path in night.run_directories(directory):
        try:
            views.append(RunView.load(path))
        except HarnessError:
            continue
    ordered = sorted(views, key=lambda view: _RANK[view.status])
    sections, calls = _sections([v for v in ordered if _telling(v.status)] or ordered[:1])
    unfinished = "" if night.finished else ", not finished"
    return Page(
        title=f"night {night.plan}",
        subtitle=f"{night.started_utc} to {night.ended_utc}{unfinished}",
        verdict=night.status.value,
        counts=_counts([cell.status for cell in cells]),
        counted="cells",
        attention=tuple(item for cell in cells for item in _of_cell(cell)),
        rows=tuple(row_of(view) for view in ordered),
        sections=sections,
        overlay=tuple(overlay(calls)) if len(calls) > 1 else (),
        trends=tuple(trend_figures(trends)),
        costs=tuple(cost_figures(cells)),
        cells=tuple(cells),
    )


def series_page(directory: Path, trends: Sequence[MetricHistory] = ()) -> Page:
    """The checked series in `directory`: which commit is bad, what each costs. Raises
    UsageError."""
    series = load_series(directory)
    statuses = [commit.status for commit in series.rows]
    return Page(
        title=f"series {series.series}",
        subtitle="",
        verdict=worst(statuses).value,
        counts=_counts(statuses),
        counted="commits, the base included",
        attention=tuple(
            _of_commit(commit)
            for commit in sorted(series.rows, key=lambda commit: _RANK[commit.status])
            if _telling(commit.status)
        ),
        rows=(),
        sections=(),
        trends=tuple(trend_figures(trends)),
        costs=tuple(series_figures(series)),
        commits=series.rows,
    )


def percent(share: float | None) -> str:
    """A relative effect as people read it."""
    return "–" if share is None or not math.isfinite(share) else f"{share:+.2%}"


def _urgency(cell: CellResult) -> tuple[int, int, str]:
    """What needs a person first: failures, regressions, what could not be judged, the rest."""
    return _RANK[cell.status], int(cell.regressed and not cell.failed), cell.key


def _telling(status: Status) -> bool:
    return _RANK[status] < _RANK[Status.PASS]


def _counts(statuses: Sequence[Status]) -> tuple[tuple[str, int], ...]:
    return tuple((s.value, statuses.count(s)) for s in Status if s in statuses)


def _label(view: RunView) -> str:
    row = row_of(view)
    size = format_size(row.memory_bytes) if row.memory_bytes else "?"
    return f"{row.kernel or '?'} ({row.accept}, {size}, {row.workload or 'no workload'})"


def _of_run(view: RunView) -> Attention:
    return Attention(
        status=view.status.value,
        title=f"{view.id}: {_label(view)}",
        cause=view.text("cause"),
        lines=_backtrace(view),
        rerun=view.text("rerun"),
        anchor=view.id,
    )


def _backtrace(view: RunView) -> tuple[str, ...]:
    """The call trace of an access that the emulated platform forbade, with files and lines."""
    trace, known = view.get("backtrace"), view.get("source_lines")
    if not isinstance(trace, list):
        return ()
    lines = [inert(line) for line in trace if isinstance(line, str)]
    return annotate(lines, known if isinstance(known, dict) else {})


def _of_cell(cell: CellResult) -> list[Attention]:
    found = []
    worse = [comparison for comparison in cell.comparisons if comparison.regressed]
    if _telling(cell.status):
        lines = [
            *cell.failed,
            *(f"{c.metric}: {c.verdict.value}, {percent(c.effect)}" for c in worse),
        ]
        status = "regressed" if worse and not cell.failed else cell.status.value
        found.append(Attention(status, cell.key, cell.cause, tuple(lines), cell.command))
    if flakes := tuple(flake.describe() for flake in cell.flakes):
        found.append(Attention("flaky", cell.key, "", flakes, cell.command))
    return found


def _of_commit(commit: CommitResult) -> Attention:
    change = commit.change
    only_dearer = change is not None and change.regressed and change.metric in commit.cause
    lines = (
        *commit.warnings,
        *(f"not in this configuration: {file}" for file in commit.not_compiled),
        *(f"flaky: {test}" for test in commit.flakes),
    )
    status = "regressed" if only_dearer else commit.status.value
    return Attention(status, commit.title, commit.cause, lines)


def _sections(views: Sequence[RunView]) -> tuple[tuple[RunSection, ...], dict[str, Calls]]:
    chosen = list(views)[:MAX_DETAILED]
    points = max(400, _POINTS // max(len(chosen), 1))
    made = [section(view, points) for view in chosen]
    calls = {
        f"{_label(one.view)} {one.view.id[-6:]}": found for one, found in made if found is not None
    }
    return tuple(one for one, _ in made), calls


def _flatten(tree: Any, prefix: str = "") -> dict[str, str]:
    """Nested mappings as dotted names and texts."""
    if isinstance(tree, Mapping):
        found: dict[str, str] = {}
        for key, value in tree.items():
            if key not in _PLACES:
                found |= _flatten(value, f"{prefix}.{key}" if prefix else str(key))
        return found
    if isinstance(tree, str):
        return {prefix: tree}
    return {prefix: json.dumps(tree)}


def differences(first: RunView, second: RunView) -> list[tuple[str, str, str]]:
    """Name and both values of every input that is not the same; "–": absent."""
    a, b = (_flatten({part: run.get(part) for part in _PARTS}) for run in (first, second))
    mine, other = (_words(run) for run in (first, second))
    a[_COMMAND], b[_COMMAND] = _only(mine, other), _only(other, mine)
    names = sorted(a.keys() | b.keys())
    return [
        (name, a.get(name, "–"), b.get(name, "–")) for name in names if a.get(name) != b.get(name)
    ]


def _words(run: RunView) -> list[str]:
    command = run.get(_COMMAND)
    return command.replace("\\\n", " ").split() if isinstance(command, str) else []


def _only(words: list[str], other: list[str]) -> str:
    known = set(other)
    return " ".join(word for word in words if word not in known)
