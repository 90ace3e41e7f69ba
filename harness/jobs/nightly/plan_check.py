# SPDX-License-Identifier: MIT
"""What can be said of a plan before anything is built: options that verbs do not have, tests and
workloads that are not there. The verbs' own parsers decide."""

from __future__ import annotations

from pathlib import Path

import click

from harness.base.status import UsageError
from harness.jobs.nightly.plan_file import Plan


def check_plan(plan: Plan, app: click.Group) -> None:
    """Raise UsageError for a test path, workload or option that does not exist.

    `app`: the command line, whose verb `run` knows workloads and options.
    """
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
