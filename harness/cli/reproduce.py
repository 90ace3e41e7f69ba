# SPDX-License-Identifier: MIT
"""`cvm-harness reproduce`: do a run, or a bug of the catalogue, again."""

import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from harness.base.guarded import run_guarded
from harness.base.options import unknown
from harness.base.status import UsageError
from harness.cli.common import print_json
from harness.cli.options import PATH, json_option
from harness.jobs.lab import interpreted
from harness.record.rundir import plain
from harness.report import terminal


@click.command()
@click.argument("what", metavar="RUN|BUG")
@click.option("--tries", default=1, help="Times, until the outcome is the same.")
@click.option("--runs", default=Path("runs"), type=PATH, help="Where the new run directories go.")
@json_option
def reproduce(what: str, tries: int, runs: Path, as_json: bool) -> None:
    """Do RUN (a run directory) again by its recorded command and say whether the outcome
    happened; or run BUG, an entry of the catalogue.

    The same outcome is the same status, and the same cause apart from numbers. Exit code 0: it
    happened again; 1: it did not.
    """
    from harness.jobs.reproduce import reproduce as again

    out, err = terminal.consoles()

    def run(argv: Sequence[str]) -> int:
        err.print(f"$ {shlex.join(argv)}", markup=False)
        return run_guarded(
            interpreted(argv),
            cwd=Path.cwd(),
            env=os.environ,
            line=lambda text: err.print(f"  {text}", markup=False),
        )

    if not Path(what).is_dir():
        sys.exit(run(_catalogue_command(what, runs)))
    if tries < 1:
        raise UsageError("--tries must be at least 1")
    found = again(Path(what), runs.resolve(), run, tries)
    if as_json:
        print_json({**plain(found), "same": found.same})
        sys.exit(0 if found.same else 1)
    word = "the same outcome" if found.same else "a different outcome"
    kernel = "" if found.same_kernel else ", on another kernel"
    out.print(f"{word}{kernel} (try {found.tries})", markup=False)
    rows = [
        (name, f"{seen.status.value} {seen.cause} [{seen.kernel}] {seen.path}")
        for name, seen in (("then", found.before), ("now", found.after))
    ]
    out.print(terminal.figures(rows))
    sys.exit(0 if found.same else 1)


def _catalogue_command(what: str, runs: Path) -> list[str]:
    """How a bug of the catalogue is run. Raises UsageError where there is no such thing."""
    from harness.jobs.catalogue.entry import load_entries

    bugs = [entry.id for entry in load_entries()]
    if what not in bugs:
        raise unknown("neither a run directory nor a bug of the catalogue:", what, bugs)
    return ["cvm-harness", "catalogue", "run", what, f"--runs={runs}"]
