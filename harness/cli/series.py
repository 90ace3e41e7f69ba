# SPDX-License-Identifier: MIT
"""`cvm-harness series`: check a patch series commit by commit."""

import shlex
from dataclasses import replace
from pathlib import Path

import click

from harness.analysis.metrics import metric_named
from harness.base.spec import Clock, GuestSpec
from harness.base.status import Status, UsageError, worst
from harness.cli.common import leave, print_json, timestamp
from harness.cli.options import guest_options, json_option, series_options
from harness.record.rundir import plain, write_json
from harness.record.series import FILE, SeriesResults
from harness.report import terminal


@click.command()
@click.argument("patches", metavar="SERIES")
@click.option("--base", help="For patches: the kernel source they are for: debian:6.12, a tree.")
@click.option(
    "--tests",
    default="tests/acceptance",
    help="What each commit has to pass, for pytest; '' for nothing but the boot of the cost.",
)
@click.option("--no-cost", is_flag=True, help="Measure nothing.")
@click.option("--metric", default="cost.workload", help="What it costs.")
@click.option("--margin", default=0.5, help="Percent that one commit may cost.")
@series_options("series")
@guest_options()
@json_option
def series(
    patches: str,
    base: str | None,
    tests: str,
    no_cost: bool,
    metric: str,
    margin: float,
    workload: str,
    guests: int,
    options: tuple[str, ...],
    fragments: tuple[str, ...],
    settings: tuple[str, ...],
    directory: Path | None,
    spec: GuestSpec,
    as_json: bool,
) -> None:
    """Check SERIES commit by commit: a range (git:/path/to/repo@A..B), or patches on --base (a
    mailbox, a directory, a file).

    Each commit has to build without new warnings in the files it touches, boot, and pass the
    tests; what it costs against the one before is measured with the icount clock, in which guest
    time is instructions. One table; exit code 1 if a commit fails any of this.
    """
    from harness.jobs.lab import Lab
    from harness.jobs.ledger import Measurement, open_ledger
    from harness.jobs.series.points import points_of
    from harness.jobs.series.series import PatchSeries, SeriesCheck
    from harness.report.summaries import print_rows

    out, err = terminal.consoles()
    metric_named(metric)
    words = tuple(shlex.split(workload))
    if not words or guests < 1 or not 0 < margin < 100:
        raise UsageError("--workload, --guests and --margin must make sense")
    cost = Measurement(metric, words, replace(spec, clock=Clock.ICOUNT), guests)
    check = SeriesCheck(
        tuple(shlex.split(tests)), spec, options, None if no_cost else cost, margin / 100
    )
    directory = directory or Path("series") / timestamp()
    with open_ledger(directory, Lab()) as ledger:
        points = points_of(patches, base, ledger.directory, fragments, settings, spec.target)
        ledger.about([point.name for point in points])
        checked = PatchSeries(ledger, points, check, say=lambda text: err.print(text, markup=False))
        rows = checked.run()
    write_json(ledger.directory / FILE, SeriesResults(patches, plain(check), tuple(rows)))
    if as_json:
        print_json(rows)
    else:
        print_rows(out, rows, ledger.directory)
    leave(worst(row.status for row in rows if row.status is not Status.SKIP))
