# SPDX-License-Identifier: MIT
"""One run in full: its figures, plots, checks, and the console where it went wrong."""

from dataclasses import dataclass

from harness.analysis.analyse import analyse
from harness.analysis.metrics import figures_of
from harness.base.status import HarnessError, Status
from harness.compare.index import Row, row_of
from harness.kernel.addresses import frames
from harness.record.console_text import around, splats, tail
from harness.record.rundir import plain
from harness.record.view import CheckText, RunView, dig
from harness.report.html.figure import Figure
from harness.report.html.run_figures import Calls, read_calls, run_figures

_SPLATS = 3
_TAIL_LINES = 40


@dataclass(frozen=True)
class SplatText:
    """One report of trouble with the console around it."""

    kind: str
    line: str
    before: tuple[str, ...]
    after: tuple[str, ...]
    frames: tuple[tuple[str, str], ...]
    """The call trace: "symbol+0x1/0x2", and file and line where they are known."""


@dataclass(frozen=True)
class RunSection:
    view: RunView
    row: Row
    figures: tuple[tuple[str, str, str], ...]
    """Metric, value, meaning."""
    bad_checks: tuple[CheckText, ...]
    """Those that did not pass."""
    passed: int
    plots: tuple[Figure, ...]
    splats: tuple[SplatText, ...]
    tail: tuple[str, ...]
    problem: str
    """Why there are no plots, where there are none."""


def section(view: RunView, points: int) -> tuple[RunSection, Calls | None]:
    """The section of `view` with at most `points` points a curve, and its accept calls."""
    calls, plots, problem = None, [], ""
    try:
        calls = read_calls(view)
        plots = run_figures(view, analyse(view.path), calls, points)
    except HarnessError as error:
        problem = error.cause
    except (KeyError, TypeError, ValueError) as error:  # written by another version, or by hand
        problem = f"run.json has not the form that is known: {type(error).__name__}: {error}"
    found = RunSection(
        view=view,
        row=row_of(view),
        figures=tuple((m.name, m.show(value), m.meaning) for m, value in figures_of(view)),
        bad_checks=tuple(c for c in view.checks if c.status != Status.PASS.value),
        passed=sum(c.status == Status.PASS.value for c in view.checks),
        plots=tuple(plots),
        splats=_splats(view),
        tail=tuple(tail(view.path / "console.log", lines=_TAIL_LINES)),
        problem=problem,
    )
    return found, calls


def _splats(view: RunView) -> tuple[SplatText, ...]:
    found = []
    known = view.get("source_lines")
    recorded = view.get("splats")
    if not isinstance(recorded, list):  # the run broke before it recorded any
        recorded = plain(splats(view.path / "console.log"))
    for splat in recorded[:_SPLATS]:
        line = dig(splat, "line")
        if not isinstance(line, str):
            continue
        before, after = around(view.path / "console.log", line)
        after = after or tuple(str(one) for one in dig(splat, "context") or ())
        trace = tuple((f.where, str(dig(known, f.where) or "")) for f in frames(after))
        found.append(SplatText(str(dig(splat, "kind")), line, before, after, trace))
    return tuple(found)
