# SPDX-License-Identifier: MIT
"""A night's or a checked series' results as the report needs them, from its directory
(docs/nightly.md, docs/series.md).

Read as any stranger's file: what is missing is missing, so that a night of another version, or one
that was killed, still gives a page.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.base.status import Status, UsageError
from harness.record.view import dig

FILE = "night.json"
SERIES_FILE = "series.json"
_MAX_BYTES = 64 << 20


@dataclass(frozen=True)
class Compared:
    """One metric of a cell, patched kernel against base."""

    metric: str
    verdict: str
    """regressed, improved, equivalent or inconclusive."""
    effect: float | None
    """Relative: 0.02 is 2 % more."""
    low: float | None
    high: float | None
    """The effect's confidence interval."""
    q_value: float | None
    detectable: float | None
    """The smallest effect that these runs could have shown."""
    runs: tuple[int, int]


@dataclass(frozen=True)
class Cell:
    """One cell of the plan."""

    key: str
    kind: str
    kernel: str
    base: str
    work: str
    guest: str
    status: Status
    cause: str
    seconds: float
    command: str
    failed: tuple[str, ...]
    flakes: tuple[str, ...]
    known: tuple[str, ...]
    compared: tuple[Compared, ...]
    values: Mapping[str, Mapping[str, tuple[float, ...]]]
    """Metric -> kernel -> one value for each fresh guest."""
    places: tuple[str, ...]

    @property
    def regressed(self) -> bool:
        """Whether a comparison says that the patched kernel is worse."""
        return any(c.verdict == "regressed" for c in self.compared)


@dataclass(frozen=True)
class Commit:
    """The outcome of one commit of a series."""

    title: str
    status: Status
    cause: str
    lines: tuple[str, ...]
    """New warnings, files that were not compiled, flakes."""
    tests: str
    cost: float | None
    """Mean over its guests."""
    change: Compared | None
    """Against the commit before."""
    total: Compared | None
    """Against the base."""


@dataclass(frozen=True)
class CheckedSeries:
    """A series, the base first."""

    path: Path
    name: str
    metric: str
    """What `cost` is."""
    commits: tuple[Commit, ...]


@dataclass(frozen=True)
class Night:
    """The outcome of one night."""

    path: Path
    plan: str
    started_utc: str
    ended_utc: str
    finished: bool
    status: Status
    cause: str
    cells: tuple[Cell, ...]

    def run_directories(self) -> Iterator[tuple[Cell, Path]]:
        """The run directories of the cells' attempts, where they still are."""
        for cell in self.cells:
            for place in cell.places:
                directory = (self.path / place).resolve()
                if not directory.is_relative_to(self.path.resolve()):
                    continue
                for record in sorted(directory.rglob("run.json")):
                    yield cell, record.parent


def is_night(path: Path) -> bool:
    """Whether `path` is a night's directory."""
    return (path / FILE).is_file()


def is_series(path: Path) -> bool:
    """Whether `path` is a checked series' directory."""
    return (path / SERIES_FILE).is_file()


def load_series(path: Path) -> CheckedSeries:
    """Read the series in `path`. Raises UsageError where it cannot be read as one."""
    file = path / SERIES_FILE
    try:
        content = _content(file)
        return CheckedSeries(
            path=path,
            name=_text(content, "series"),
            metric=str(dig(content, "check", "cost", "metric") or ""),
            commits=tuple(_commit(row) for row in content["rows"]),
        )
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UsageError(f"{file} cannot be read as a series' results: {error}") from error


def _content(file: Path) -> Any:
    if file.stat().st_size > _MAX_BYTES:
        raise ValueError("it is too large to believe")
    return json.loads(file.read_bytes())


def _commit(row: Mapping[str, Any]) -> Commit:
    change, total = dig(row, "change"), dig(row, "total")
    unseen = _texts(row, "not_compiled")
    return Commit(
        title=_text(row, "title"),
        status=Status(row["status"]),
        cause=_text(row, "cause"),
        lines=(
            *_texts(row, "warnings"),
            *(f"not in this configuration: {file}" for file in unseen),
            *(f"flaky: {test}" for test in _texts(row, "flakes")),
        ),
        tests=_text(row, "tests"),
        cost=_number(row, "cost"),
        change=_compared(change) if change else None,
        total=_compared(total) if total else None,
    )


def load_night(path: Path) -> Night:
    """Read the night in `path`. Raises UsageError where it cannot be read as one."""
    file = path / FILE
    try:
        content = _content(file)
        return Night(
            path=path,
            plan=_text(content, "plan"),
            started_utc=_text(content, "started_utc"),
            ended_utc=_text(content, "ended_utc"),
            finished=dig(content, "finished") is True,
            status=Status(content["status"]),
            cause=_text(content, "cause"),
            cells=tuple(_cell(cell) for cell in content["cells"]),
        )
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UsageError(f"{file} cannot be read as a night's results: {error}") from error


def order(cells: Sequence[Cell]) -> list[Cell]:
    """What needs a person first: failures, regressions, what could not be judged, the rest."""
    rank = {status: place for place, status in enumerate(Status)}

    def urgency(cell: Cell) -> tuple[int, int, str]:
        return rank[cell.status], int(cell.regressed and not cell.failed), cell.key

    return sorted(cells, key=urgency)


def _cell(cell: Mapping[str, Any]) -> Cell:
    guest = dig(cell, "guest") or {}
    return Cell(
        key=_text(cell, "key"),
        kind=_text(cell, "kind"),
        kernel=_text(cell, "kernel"),
        base=_text(cell, "base"),
        work=_text(cell, "work"),
        guest=", ".join(f"{name} {value}" for name, value in dict(guest).items()),
        status=Status(cell["status"]),
        cause=_text(cell, "cause"),
        seconds=_number(cell, "seconds") or 0.0,
        command=_text(cell, "command"),
        failed=_texts(cell, "failed"),
        flakes=tuple(
            f"{_text(flake, 'test')}: {', '.join(_texts(flake, 'statuses'))}"
            for flake in dig(cell, "flakes") or ()
        ),
        known=_texts(cell, "known"),
        compared=tuple(_compared(one) for one in dig(cell, "comparisons") or ()),
        values={
            str(metric): {str(arm): _numbers(found) for arm, found in dict(arms).items()}
            for metric, arms in dict(dig(cell, "values") or {}).items()
        },
        places=_texts(cell, "places"),
    )


def _compared(one: Mapping[str, Any]) -> Compared:
    ratio, interval = _number(one, "ratio"), dig(one, "interval")
    low, high = (_number(interval or {}, name) for name in ("low", "high"))
    return Compared(
        metric=_text(one, "metric"),
        verdict=_text(one, "verdict"),
        effect=None if ratio is None else ratio - 1,
        low=None if low is None else low - 1,
        high=None if high is None else high - 1,
        q_value=_number(one, "q_value"),
        detectable=_number(one, "minimum_detectable_effect"),
        runs=(int(_number(one, "runs_a") or 0), int(_number(one, "runs_b") or 0)),
    )


def _text(tree: Any, key: str) -> str:
    value = dig(tree, key)
    return str(value) if isinstance(value, str | int | float) else ""


def _texts(tree: Any, key: str) -> tuple[str, ...]:
    return tuple(str(value) for value in dig(tree, key) or ())


def _number(tree: Any, key: str) -> float | None:
    value = dig(tree, key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def _numbers(values: Any) -> tuple[float, ...]:
    return tuple(float(value) for value in values if isinstance(value, int | float))
