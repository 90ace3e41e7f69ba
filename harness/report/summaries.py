# SPDX-License-Identifier: MIT
"""What a night, a checked series and a bisection found, on one page each: what is wrong first."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from harness.analysis.metrics import metric_named
from harness.base.status import Status
from harness.base.units import format_duration
from harness.jobs.nightly.measure import describe
from harness.record.comparison import Comparison
from harness.record.night import CellResult, NightResults
from harness.record.series import CommitResult
from harness.report import terminal

if TYPE_CHECKING:
    from harness.jobs.bisect.bisect import BisectResult

_MOST = 12
"""Lines in one section: the page stays one page; night.json has everything."""
_BAD = (Status.FAIL, Status.ERROR, Status.MISS)


def print_summary(out: Console, results: NightResults, directory: Path) -> None:
    head = terminal.status_text(results.status)
    counts = ", ".join(f"{count} {name}" for name, count in results.counts.items())
    head.append(f" night {results.plan}: {counts}", style="none")
    out.print(head)
    if results.cause:
        out.print(Text(results.cause))
    for title, status in (
        ("the kernel is wrong", Status.FAIL),
        ("could not be judged", Status.ERROR),
        ("the host or the harness failed", Status.MISS),
    ):
        _section(out, title, (_lines(c) for c in results.cells if c.status is status))
    _section(
        out,
        "flaky",
        ([f"{cell.key}: {flake.describe()}"] for cell in results.cells for flake in cell.flakes),
    )
    _section(
        out,
        "known defects that showed (harness/suite/expectations.toml)",
        ([f"{', '.join(cell.known)}: {cell.key}"] for cell in results.cells if cell.known),
    )
    _section(
        out,
        "compared",
        (
            [f"{cell.key}", *(f"  {describe(c)}" for c in cell.comparisons)]
            for cell in results.cells
            if cell.comparisons
        ),
    )
    _section(
        out,
        "not run",
        ([f"{c.key}: {c.cause}"] for c in results.cells if c.status is Status.SKIP),
    )
    spent = format_duration(sum(cell.seconds for cell in results.cells))
    again = f", taken up again {results.interruptions} times" if results.interruptions else ""
    out.print(f"{len(results.cells)} cells, {spent} of work{again}: {directory}", markup=False)
    if not results.finished:
        out.print(f"to go on: cvm-harness nightly --resume {directory}", markup=False)


def _lines(cell: CellResult) -> list[str]:
    lines = [f"{cell.key}"]
    lines += [f"  {text}" for text in (cell.failed or (cell.cause,))[:4]]
    if len(cell.failed) > 4:
        lines.append(f"  and {len(cell.failed) - 4} more")
    if cell.command:
        lines.append(f"  by hand: {cell.command}")
    return lines


def _section(out: Console, title: str, blocks: Iterable[list[str]]) -> None:
    lines = [line for block in blocks for line in block]
    if not lines:
        return
    out.print(Text(f"\n{title}", style="bold"))
    for line in lines[:_MOST]:
        out.print(Text(f"  {line}"))
    if len(lines) > _MOST:
        out.print(Text(f"  … {len(lines) - _MOST} more lines in night.json"))


def write_summary(path: Path, results: NightResults, directory: Path) -> None:
    with path.open("w", encoding="utf-8") as file:
        print_summary(Console(file=file, width=120, highlight=False), results, directory)


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


def print_result(out: Console, result: BisectResult, directory: object) -> None:
    """The commit, the evidence of both sides, what it took, how to see it again."""
    head = terminal.status_text(result.status)
    if len(result.candidates) == 1:
        out.print(head.append(f" first bad commit: {result.candidates[0]}", style="none"))
    else:
        out.print(head.append(" the first bad commit is one of these:", style="none"))
        for candidate in result.candidates:
            out.print(f"  {candidate}", markup=False)
    rows = [
        ("bad", result.bad_evidence.reason),
        ("good", result.good_evidence.reason),
        (
            "took",
            f"{result.steps} steps, {result.builds} builds for {result.commits_in_range} commits, "
            f"{format_duration(result.seconds)}",
        ),
        ("reproduce", result.reproduce),
        ("directory", str(directory)),
    ]
    out.print(terminal.figures(rows))
