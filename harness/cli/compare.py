# SPDX-License-Identifier: MIT
"""`cvm-harness compare A… --against B…`: is B slower than A, and what could have been seen?"""

from collections.abc import Callable, Sequence
from pathlib import Path

import click
from msgspec.structs import replace

from harness.base.status import Status, UsageError
from harness.cli.common import leave, print_json
from harness.cli.options import PATH, bundle, json_option, member, together
from harness.compare.verdict import worst_verdict
from harness.record.comparison import Comparison, Criteria, Errors, Statistic, Verdict
from harness.record.view import RunView, run_directories
from harness.report import terminal

Tune = Callable[[Criteria], Criteria]


def _tune(margin: float | None, alpha: float, power: float, statistic: Statistic) -> Tune:
    """Puts what was given into criteria that fit the runs' clock."""

    def tune(criteria: Criteria) -> Criteria:
        return replace(
            criteria,
            margin=criteria.margin if margin is None else margin,
            errors=Errors(alpha, power),
            statistic=statistic,
        )

    tune(Criteria())  # what makes no sense is said before anything is read or run
    return tune


criteria_options = together(
    click.option(
        "--metric",
        "metrics",
        multiple=True,
        help="A metric's name (`cvm-harness history` lists them). May be repeated.",
    ),
    bundle(
        "tune",
        _tune,
        click.option(
            "--margin",
            type=float,
            help="Relative difference that does not matter.  [default: 0.02; icount: 0.001]",
        ),
        click.option("--alpha", default=0.05, help="Rate of false alarms, two-sided."),
        click.option("--power", default=0.8, help="Chance to find an effect that is real."),
        click.option(
            "--statistic",
            default=Statistic.MEAN.value,
            callback=member(Statistic, "statistic"),
            help="mean (geometric) or median of the runs.",
        ),
    ),
)
"""The verb gets `metrics` and `tune`."""


@click.command()
@click.argument("a", nargs=-1, required=True, type=PATH)
@click.option(
    "--against",
    "b",
    multiple=True,
    required=True,
    type=PATH,
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

    Two files of `pytest --verdicts=FILE` are compared test by test: exit code 1 if one differs.

    \b
    cvm-harness compare on-hardware.jsonl --against under-tcg.jsonl
    """
    if files := [path for path in (*a, *b) if path.is_file()]:
        if len(files) != 2 or len(a) != 1 or len(b) != 1:
            raise UsageError(
                f"{files[0]} is a file: of verdicts there are two to compare, and nothing else",
                hint="cvm-harness compare A.jsonl --against B.jsonl",
            )
        compare_suites(*files, as_json=as_json)
        return
    from harness.compare.runs import check_comparable, compare_runs, default_criteria

    runs_a, runs_b = load_runs(a), load_runs(b)
    differences = check_comparable(runs_a, runs_b, anyway=anyway)
    criteria = tune(default_criteria(runs_a[0]))
    found = compare_runs(runs_a, runs_b, metrics, criteria, paired=paired)
    show(found, differences, runs_a, runs_b, as_json=as_json)
    leave_with(found)


def compare_suites(a: Path, b: Path, *, as_json: bool) -> None:
    """Where the verdicts in two files differ; leaves with FAIL if they do."""
    from harness.compare.suites import differences
    from harness.report.comparison import suites
    from harness.suite.judge import parse_verdicts

    found, both = differences(*(parse_verdicts(path.read_text("utf-8")) for path in (a, b)))
    if as_json:
        print_json({"tests": both, "differences": found})
    else:
        terminal.consoles()[0].print(suites(found, both, (a.name, b.name)))
    leave(Status.FAIL if found else Status.PASS)


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
        found += map(RunView.load, inside)
    return found


def show(
    found: Sequence[Comparison],
    differences: list[str],
    a: Sequence[RunView] = (),
    b: Sequence[RunView] = (),
    *,
    as_json: bool,
) -> None:
    """Print comparisons of `a` with `b`, and the functions that changed where all counted them."""
    from harness.analysis.functions import changes, read_functions
    from harness.report.comparison import functions, screen

    moved = changes(*([read_functions(run.path) for run in arm] for arm in (a, b)))
    if as_json:
        content = {
            "verdict": worst_verdict(found),
            "differences": differences,
            "comparisons": found,
            "functions": moved,
        }
        print_json(content)
        return
    out, _ = terminal.consoles()
    out.print(screen(found, differences))
    if moved:
        out.print(functions(moved))


def leave_with(found: Sequence[Comparison]) -> None:
    """End with what the worst verdict stands for: regressed is FAIL, inconclusive ERROR."""
    statuses = {Verdict.REGRESSED: Status.FAIL, Verdict.INCONCLUSIVE: Status.ERROR}
    leave(statuses.get(worst_verdict(found), Status.PASS))
