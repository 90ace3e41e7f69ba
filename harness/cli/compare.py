# SPDX-License-Identifier: MIT
"""`cvm-harness compare A… --against B…`: is B slower than A, and what could have been seen?"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
from msgspec.structs import replace

from harness.base.options import choice
from harness.base.status import Status, UsageError
from harness.cli.common import leave
from harness.cli.options import json_option
from harness.compare.verdict import worst_verdict
from harness.record.comparison import Comparison, Criteria, Errors, Statistic, Verdict
from harness.record.view import RunView, run_directories
from harness.report import terminal

Command = Callable[..., Any]
Tune = Callable[[Criteria], Criteria]


def criteria_options(command: Command) -> Command:
    """Adds --metric, --margin, --alpha, --power and --statistic; the verb gets `metrics` and
    `tune`, which puts what was given into criteria that fit the runs' clock."""

    @functools.wraps(command)
    def wrapper(
        metric: tuple[str, ...],
        margin: float | None,
        alpha: float,
        power: float,
        statistic: str,
        **rest: Any,
    ) -> Any:
        def tune(criteria: Criteria) -> Criteria:
            return replace(
                criteria,
                margin=criteria.margin if margin is None else margin,
                errors=Errors(alpha, power),
                statistic=choice(Statistic, statistic, "statistic"),
            )

        tune(Criteria())  # what makes no sense is said before anything is read or run
        return command(metrics=metric, tune=tune, **rest)

    for option in (
        click.option(
            "--statistic",
            default=Statistic.MEAN.value,
            show_default=True,
            help="mean (geometric) or median of the runs.",
        ),
        click.option(
            "--power", default=0.8, show_default=True, help="Chance to find an effect that is real."
        ),
        click.option(
            "--alpha", default=0.05, show_default=True, help="Rate of false alarms, two-sided."
        ),
        click.option(
            "--margin",
            type=float,
            help="Relative difference that does not matter.  [default: 0.02; icount: 0.001]",
        ),
        click.option(
            "--metric",
            multiple=True,
            help="A metric's name (`cvm-harness history` lists them). May be repeated.",
        ),
    ):
        wrapper = option(wrapper)
    return wrapper


@click.command()
@click.argument("a", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--against",
    "b",
    multiple=True,
    required=True,
    type=click.Path(path_type=Path),
    help="A run of arm B, or a directory of them. May be repeated.",
)
@criteria_options
@click.option("--paired", is_flag=True, help="Run i of A was made next to run i of B.")
@click.option("--anyway", is_flag=True, help="Compare what differs in more than it should.")
@json_option
def compare(
    a: tuple[Path, ...],
    b: tuple[Path, ...],
    metrics: tuple[str, ...],
    tune: Tune,
    paired: bool,
    anyway: bool,
    as_json: bool,
) -> None:
    """Compare the runs A… with those named by --against: regressed, improved, equivalent or
    inconclusive, each with its interval and the smallest effect that could have been seen.

    A run is a run directory; a directory of run directories stands for all of them. Each run is one
    fresh guest, and one sample. Exit code 1 if anything regressed, 3 if nothing can be said.

    \b
    cvm-harness compare runs/before --against runs/after
    cvm-harness compare runs/A --against runs/B --metric accept.p99_ns --margin 0.05
    """
    from harness.compare.runs import check_comparable, compare_runs, default_criteria

    runs_a, runs_b = load_runs(a), load_runs(b)
    differences = check_comparable(runs_a, runs_b, anyway=anyway)
    criteria = tune(default_criteria(runs_a[0]))
    found = compare_runs(runs_a, runs_b, metrics, criteria, paired=paired)
    show(found, differences, runs_a, runs_b, as_json=as_json)
    leave(status_of(worst_verdict(found)))


def load_runs(paths: tuple[Path, ...]) -> list[RunView]:
    """The runs under `paths`. Raises UsageError for a path that holds none."""
    found: list[RunView] = []
    for path in paths:
        inside = [path] if (path / "run.json").is_file() else list(run_directories(path))
        if not inside:
            raise UsageError(
                f"{path} is no run directory and holds none",
                hint="name directories that hold a run.json, as printed at the end of a run",
            )
        found += [RunView.load(directory) for directory in inside]
    return found


def show(
    found: list[Comparison],
    differences: list[str],
    a: Sequence[RunView] = (),
    b: Sequence[RunView] = (),
    *,
    as_json: bool,
) -> None:
    """Print comparisons of `a` with `b`, and the functions that changed where all counted them."""
    from harness.analysis.functions import changes, read_functions
    from harness.record.rundir import plain
    from harness.report.comparison import functions, screen

    out, _ = terminal.consoles()
    moved = changes(*([read_functions(run.path) for run in arm] for arm in (a, b)))
    if as_json:
        content = {
            "verdict": worst_verdict(found),
            "differences": differences,
            "comparisons": found,
            "functions": moved,
        }
        out.print_json(json.dumps(plain(content)))
    else:
        out.print(screen(found, differences))
        if moved:
            out.print(functions(moved))


def status_of(verdict: Verdict) -> Status:
    """The status that a verdict stands for: what regressed is FAIL, what nobody knows ERROR."""
    if verdict is Verdict.REGRESSED:
        return Status.FAIL
    return Status.ERROR if verdict is Verdict.INCONCLUSIVE else Status.PASS
