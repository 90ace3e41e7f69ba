# SPDX-License-Identifier: MIT
"""`cvm-harness series`: check a patch series commit by commit."""

from __future__ import annotations

import json
import shlex
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import click

from harness.analysis.metrics import metric_named
from harness.base.spec import Clock, GuestSpec
from harness.base.status import Status, UsageError, worst
from harness.cli.options import guest_options, json_option
from harness.record.journal import Journal
from harness.record.rundir import plain, write_json
from harness.record.series import FILE, SeriesResults
from harness.report import terminal

JOURNAL = "journal.jsonl"


@click.command()
@click.argument("patches", metavar="SERIES")
@click.option("--base", help="For patches: the kernel source they are for: debian:6.12, a tree.")
@click.option(
    "--tests",
    default="tests/acceptance",
    show_default=True,
    help="What each commit has to pass, for pytest; '' for nothing but the boot of the cost.",
)
@click.option("--option", "options", multiple=True, help="Another option for pytest.")
@click.option("--no-cost", is_flag=True, help="Measure nothing.")
@click.option("--metric", default="cost.workload", show_default=True, help="What it costs.")
@click.option("--workload", default="touch", show_default=True, help="On what: 'touch --bytes=1G'.")
@click.option("--guests", default=3, show_default=True, help="Fresh guests per commit.")
@click.option("--margin", default=0.5, show_default=True, help="Percent that one commit may cost.")
@click.option("--fragment", multiple=True, help="Another config fragment. May be repeated.")
@click.option("--set", "setting", multiple=True, help="Set a config symbol. May be repeated.")
@click.option(
    "--directory",
    type=click.Path(path_type=Path),
    help="Where everything goes; one that exists is taken up again.  [default: series/<time>]",
)
@guest_options()
@json_option
def series(
    patches: str,
    base: str | None,
    tests: str,
    options: tuple[str, ...],
    no_cost: bool,
    metric: str,
    workload: str,
    guests: int,
    margin: float,
    fragment: tuple[str, ...],
    setting: tuple[str, ...],
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
    from harness.jobs.lab import LocalLab
    from harness.jobs.ledger import Ledger
    from harness.jobs.series.points import points_of
    from harness.jobs.series.series import Cost, PatchSeries, SeriesCheck
    from harness.report.summaries import print_rows

    out, err = terminal.consoles()
    metric_named(metric)
    words = shlex.split(workload)
    if not words or guests < 1 or not 0 < margin < 100:
        raise UsageError("--workload, --guests and --margin must make sense")
    directory = directory or Path("series") / f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    directory.mkdir(parents=True, exist_ok=True)
    directory = directory.resolve()
    points = points_of(patches, base, directory, fragment, setting, spec.target)
    cost = Cost(
        *(metric, words[0], tuple(words[1:]), replace(spec, clock=Clock.ICOUNT)),
        guests=guests,
        margin=margin / 100,
    )
    check = SeriesCheck(tuple(shlex.split(tests)), spec, options, None if no_cost else cost)
    with Journal(directory / JOURNAL) as journal:
        _same_series(journal, [point.name for point in points])
        ledger = Ledger(directory, journal, LocalLab())
        rows = PatchSeries(
            ledger, points, check, say=lambda text: err.print(text, markup=False)
        ).run()
    write_json(directory / FILE, SeriesResults(patches, plain(check), tuple(rows)))
    if as_json:
        out.print_json(json.dumps(plain(rows)))
    else:
        print_rows(out, rows, directory)
    sys.exit(worst(row.status for row in rows if row.status is not Status.SKIP).exit_code)


def _same_series(journal: Journal, points: list[str]) -> None:
    for event in journal.of("points"):
        if event["points"] != points:
            raise UsageError(
                f"{journal.path.parent} is about another series", hint="give another --directory"
            )
        return
    journal.append("points", points=points)
