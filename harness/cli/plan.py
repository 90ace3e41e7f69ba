# SPDX-License-Identifier: MIT
"""`cvm-harness plan`: what a night would do."""

from pathlib import Path

import click

from harness.base.status import UsageError
from harness.base.units import format_duration
from harness.cli.common import print_json
from harness.cli.options import PATH, json_option
from harness.jobs.nightly.estimate import past_of
from harness.jobs.nightly.plan import cells, parse_filter, select
from harness.jobs.nightly.plan_file import Plan, read_plan
from harness.report import terminal

only_option = click.option(
    "--only",
    multiple=True,
    metavar="KEY=VALUE,…",
    help="Only cells that match: kind, kernel, config, suite, workload, or an option of the "
    "matrix. May be repeated: a cell that matches any of them is in.",
)
nights_option = click.option(
    "--nights",
    default=Path("nights"),
    type=PATH,
    help="Where the directories of nights go.",
)


@click.command()
@click.argument("file", type=PATH)
@only_option
@nights_option
@json_option
def plan(file: Path, only: tuple[str, ...], nights: Path, as_json: bool) -> None:
    """Show what `cvm-harness nightly FILE` would do: cells, times, what is skipped and why.

    FILE is TOML: kernels, configs, a matrix of guests, suites, workloads, limits. The cross product
    of all of them is what is run. Times are medians of nights and builds that are over; without
    any, there is none. Format and examples: docs/nightly.md.
    """
    from harness.base.store import Store
    from harness.cli.app import app

    parsed = read_plan(file)
    check_plan(parsed, app)
    found = select(cells(parsed), [parse_filter(text) for text in only])
    past = past_of(nights, Store().root / "entries")
    estimates = [past.estimate(cell) for cell in found]
    if as_json:
        rows = [
            {"key": cell.key, "kind": cell.kind, "skip": cell.skip, "estimate": estimate}
            for cell, estimate in zip(found, estimates, strict=True)
        ]
        print_json({"plan": parsed, "cells": rows})
        return
    out, _ = terminal.consoles()
    table = [
        (
            cell.key,
            "–" if cell.skip else (format_duration(estimate.seconds) if estimate else "unknown"),
            cell.skip or (estimate.basis if estimate else "nothing like it has run yet"),
        )
        for cell, estimate in zip(found, estimates, strict=True)
    ]
    out.print(terminal.columns(f"plan {parsed.name}", ("cell", "time", "why"), table))
    known = [estimate.seconds for estimate in estimates if estimate]
    total = format_duration(sum(known)) if known else "no time"
    runs = sum(not cell.skip for cell in found)
    out.print(
        f"{runs} cells to run, {len(found) - runs} skipped; "
        f"{total} known for {len(known)} of "
        f"them (builds that the cache has already take none)",
        markup=False,
    )


def check_plan(plan: Plan, app: click.Group) -> None:
    """Raise UsageError for a test path, workload or option that does not exist. `app`: the command
    line, whose verb `run` knows workloads and options."""
    for suite in plan.suites:
        for test in suite.tests:
            if not Path(test.partition("::")[0]).exists():
                raise UsageError(
                    f"suite {suite.name}: there is no {test}",
                    hint="give paths from the directory in which you start the night",
                )
    for measured in plan.workloads:
        check_run_options(app, measured.workload, measured.options)


def check_run_options(app: click.Group, workload: str, options: tuple[str, ...]) -> None:
    """Raise UsageError if `cvm-harness run WORKLOAD OPTIONS` would be refused."""
    top = click.Context(app)
    verb = app.get_command(top, "run")
    assert isinstance(verb, click.Group)
    context = click.Context(verb, info_name="run", parent=top)
    command = verb.get_command(context, workload)
    assert command
    try:
        command.make_context(workload, list(options), parent=context)
    except click.ClickException as error:
        raise UsageError(f"workload {workload}: {error.format_message()}") from error
