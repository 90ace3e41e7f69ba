# SPDX-License-Identifier: MIT
"""`cvm-harness analyse RUN`: the figures and verdict of a recorded run, from its files alone."""

from pathlib import Path

import click

from harness.cli.common import leave, print_json
from harness.cli.options import PATH, json_option, verbose_option
from harness.report import terminal


@click.command()
@click.argument("run_directory", metavar="RUN", type=PATH)
@json_option
@verbose_option
def analyse(run_directory: Path, as_json: bool, verbose: bool) -> None:
    """Print again what `run` printed, computed anew from the run directory RUN. Needs no guest."""
    from harness.analysis.analyse import analyse as compute
    from harness.report.analysis import screen

    found = compute(run_directory)
    if as_json:
        print_json(found)
    else:
        terminal.consoles()[0].print(screen(found, verbose=verbose))
    leave(found.status)
