# SPDX-License-Identifier: MIT
"""`cvm-harness analyse RUN`: the figures and verdict of a recorded run, from its files alone."""

from __future__ import annotations

import json
from pathlib import Path

import click

from harness.cli.common import leave
from harness.cli.options import json_option, verbose_option
from harness.report import terminal


@click.command()
@click.argument("run_directory", metavar="RUN", type=click.Path(path_type=Path))
@json_option
@verbose_option
def analyse(run_directory: Path, as_json: bool, verbose: bool) -> None:
    """Print again what `run` printed, computed anew from the run directory RUN. Needs no guest."""
    from harness.analysis.analyse import analyse as compute
    from harness.record.rundir import plain
    from harness.report.analysis import screen

    out, _ = terminal.consoles()
    found = compute(run_directory)
    if as_json:
        out.print_json(json.dumps(plain(found)))
    else:
        out.print(screen(found, verbose=verbose))
    leave(found.status)
