# SPDX-License-Identifier: MIT
"""`cvm-harness nightly`: run a plan, or go on with one."""

import contextlib
import signal
from pathlib import Path
from types import FrameType

import click

from harness.base.reader import read_json
from harness.base.status import HostError, UsageError
from harness.base.ui import ProgressLine
from harness.cli.common import leave, print_json, timestamp
from harness.cli.options import PATH, json_option
from harness.cli.plan import check_plan, nights_option, only_option
from harness.jobs.nightly.plan import Cell, cells, parse_filter, select
from harness.jobs.nightly.plan_file import Plan, read_plan
from harness.record.journal import JOURNAL, Journal
from harness.record.night import FILE
from harness.record.rundir import write_json
from harness.report import terminal


@click.command()
@click.argument("file", required=False, type=PATH)
@click.option(
    "--resume",
    type=PATH,
    metavar="NIGHT",
    help="Go on with this night: what has ended is not run again.",
)
@only_option
@nights_option
@json_option
def nightly(
    file: Path | None, resume: Path | None, only: tuple[str, ...], nights: Path, as_json: bool
) -> None:
    """Run the plan FILE: build its kernels, test them, measure each against its base.

    Every result is on disk when it is made. A night that was stopped, however, goes on with
    --resume. Ends with one page; exit code 0 only if everything was run and nothing failed.
    `cvm-harness plan FILE` shows beforehand what it will do. Format, limits, cron and systemd
    examples: docs/nightly.md.
    """
    from harness.host.lease import sweep
    from harness.jobs.lab import Lab
    from harness.jobs.nightly.night import Night
    from harness.jobs.nightly.rollup import roll_up
    from harness.report.summaries import print_summary, write_summary

    if (file is None) == (resume is None):
        raise UsageError("give a plan, or --resume NIGHT", hint="cvm-harness nightly --help")
    out, err = terminal.consoles()
    signal.signal(signal.SIGTERM, _interrupt)
    directory = resume.resolve() if resume else _new(nights, file, only)
    plan, chosen = _opened(directory)
    sweep()
    with Journal(directory / JOURNAL) as journal, ProgressLine(err) as progress:
        journal.append("session", plan=plan.name)
        try:
            Night(plan, chosen, directory, journal, Lab(alone=plan.limits.alone), progress).run()
        except KeyboardInterrupt:
            err.print(f"to go on: cvm-harness nightly --resume {directory}", markup=False)
            raise
        finally:
            results = roll_up(plan.name, chosen, journal.events)
            journal.release_reserve()  # on a full disk the results need it
            with contextlib.suppress(OSError):
                write_json(directory / FILE, results)
                write_summary(directory / "summary.txt", results, directory)
    if as_json:
        print_json(results)
    else:
        print_summary(out, results, directory)
    leave(results.status)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt  # systemd and cron stop with SIGTERM: end in the same good order


def _new(nights: Path, file: Path | None, only: tuple[str, ...]) -> Path:
    """A new night's directory with its plan, checked."""
    from harness.cli.app import app

    assert file is not None
    plan = read_plan(file)
    check_plan(plan, app)
    select(cells(plan), [parse_filter(text) for text in only])
    directory = nights / f"{timestamp()}-{plan.name}"
    try:
        directory.mkdir(parents=True)
        (directory / "plan.toml").write_bytes(file.read_bytes())
        write_json(directory / "only.json", list(only))
    except OSError as error:
        raise HostError(
            f"cannot create {directory}: {error.strerror}", hint="choose a place with --nights DIR"
        ) from error
    return directory.resolve()


def _opened(directory: Path) -> tuple[Plan, list[Cell]]:
    hint = "name the directory of a night: one that holds plan.toml and journal.jsonl"
    only = read_json(directory / "only.json", tuple[str, ...], hint)
    plan = read_plan(directory / "plan.toml")
    return plan, select(cells(plan), [parse_filter(text) for text in only])
