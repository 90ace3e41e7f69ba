# SPDX-License-Identifier: MIT
"""What a bisection found, for people."""

from __future__ import annotations

from rich.console import Console

from harness.base.units import format_duration
from harness.jobs.bisect.bisect import BisectResult
from harness.report import terminal


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
