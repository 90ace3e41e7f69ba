# SPDX-License-Identifier: MIT
"""A checked series as one table: which patch of it costs what."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from harness.analysis.metrics import metric_named
from harness.base.status import Status
from harness.record.comparison import Comparison
from harness.record.series import CommitResult
from harness.report import terminal

_BAD = (Status.FAIL, Status.ERROR, Status.MISS)


def print_rows(out: Console, rows: Sequence[CommitResult], directory: Path) -> None:
    """The table, then what is wrong, in full."""
    table = [
        (
            row.title,
            row.status.value,
            str(len(row.warnings)) if row.warnings else "–",
            row.tests or "–",
            _cost(row),
            _change(row.change),
            _change(row.total),
        )
        for row in rows
    ]
    header = ("commit", "status", "warnings", "tests", "cost", "change", "since base")
    out.print(terminal.columns("series", header, table))
    for row in rows:
        if row.status in _BAD:
            out.print(terminal.status_text(row.status).append(f" {row.title}: {row.cause}"))
        for warning in row.warnings:
            out.print(f"  {warning}", markup=False)
        if row.not_compiled:
            files = ", ".join(row.not_compiled)
            out.print(f"  {row.title}: not in this configuration: {files}", markup=False)
        for flake in row.flakes:
            out.print(f"  {row.title}: flaky: {flake}", markup=False)
    out.print(f"everything: {directory}", markup=False)


def _cost(row: CommitResult) -> str:
    metric = row.change.metric if row.change else None
    if row.cost is None:
        return "–"
    return metric_named(metric).show(row.cost) if metric else f"{row.cost:.6g}"


def _change(change: Comparison | None) -> str:
    if change is None:
        return "–"
    words = f"{change.effect:+.2%}"
    if change.interval:
        words += f" ± {(change.interval.high - change.interval.low) / 2:.2%}"
    return f"{words} {change.verdict.value}"
