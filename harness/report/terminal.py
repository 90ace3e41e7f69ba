# SPDX-License-Identifier: MIT
"""A run on the terminal: the verdict first, then the figures, then where to look further."""

from collections.abc import Sequence
from typing import Literal

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from harness.base.status import HarnessError, Status, UsageError
from harness.base.units import format_ns
from harness.record.check import Check
from harness.record.trace import AcceptSummary, Latency

_STYLES = {
    Status.PASS: "bold green",
    Status.DONE: "bold green",
    Status.SKIP: "yellow",
    Status.FAIL: "bold red",
    Status.ERROR: "bold magenta",
    Status.MISS: "bold yellow",
}


_FILE_WIDTH = 140
"""Columns of tables that go to a file or a pipe."""


def consoles() -> tuple[Console, Console]:
    """Standard output for results and standard error for progress; plain when not a terminal."""
    out = Console(highlight=False, soft_wrap=True)
    if not out.is_terminal:
        out.width = _FILE_WIDTH
    return out, Console(stderr=True, highlight=False, soft_wrap=True)


def status_text(status: Status) -> Text:
    return Text(status.value, style=_STYLES[status])


def error_text(error: HarnessError) -> Text:
    """A failure: status, cause, details (console, run directory, rerun command), next step."""
    text = Text()
    label = "usage" if isinstance(error, UsageError) else error.status.value
    text.append(label, style=_STYLES[error.status]).append(f": {error.cause}\n")
    for line in error.details:
        text.append(f"  | {line}\n", style="dim")
    if error.hint:
        text.append(f"next step: {error.hint}\n")
    text.rstrip()
    return text


def figures(rows: Sequence[tuple[str, str]], title: str = "") -> Table:
    """Names and values, one row each."""
    table = Table(box=box.SIMPLE, show_header=False, title=title, title_justify="left")
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(Text(name), Text(value))
    return table


def columns(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """A table whose first column names the row."""
    table = Table(box=box.SIMPLE, title=title, title_justify="left")
    for index, name in enumerate(header):
        justify: Literal["left", "right"] = "left" if index == 0 else "right"
        table.add_column(Text(name), justify=justify, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    return table


def latency_cell(latency: Latency | None) -> str:
    if latency is None:
        return "–"
    return " / ".join(format_ns(v) for v in (latency.p50_ns, latency.p99_ns, latency.max_ns))


def throughput_cell(summary: AcceptSummary | None) -> str:
    if summary is None or summary.gib_per_s is None:
        return "–"
    return f"{summary.gib_per_s:.3g}"


def checks_text(checks: Sequence[Check], *, verbose: bool) -> RenderableType:
    """Checks that did not pass, in full; those that did, counted, or in full if verbose."""
    shown = [c for c in checks if verbose or c.status is not Status.PASS]
    passed = sum(c.status is Status.PASS for c in checks)
    lines: list[RenderableType] = [Text(f"{passed} of {len(checks)} checks passed")]
    for check in shown:
        lines.append(status_text(check.status).append(f" {check.name}: {check.detail}"))
    return Group(*lines)
