# SPDX-License-Identifier: MIT
"""A night on one page: what is wrong first, then what it cost, then how to go on."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from rich.console import Console
from rich.text import Text

from harness.base.status import Status
from harness.base.units import format_duration
from harness.jobs.nightly.measure import describe
from harness.record.night import CellResult, NightResults
from harness.report import terminal

_MOST = 12
"""Lines in one section: the page stays one page; night.json has everything."""


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
