# SPDX-License-Identifier: MIT
"""`cvm-harness catalogue`: known bugs, how to see each, and whether the suite finds them."""

from pathlib import Path

import click

from harness.base.options import DEFAULT_KERNEL
from harness.base.status import worst
from harness.cli.common import Group, leave, print_json, working
from harness.cli.options import json_option, runs_option
from harness.report import terminal

kernel_option = click.option(
    "--kernel",
    default=DEFAULT_KERNEL,
    metavar="SOURCE",
    help="A source that the carried patch known-bugs is for: debian:6.12, debian:7.3.",
)


@click.group(cls=Group)
def catalogue() -> None:
    """Known bugs of lazy acceptance, each behind a switch of one kernel.

    They are there to test the tests: with a bug on, the suite has to FAIL for that bug's reason,
    and with all of them off it must not.
    """


@catalogue.command("list")
@json_option
def list_bugs(as_json: bool) -> None:
    """List the bugs: where each comes from, on which kernels, what catches it."""
    from harness.jobs.catalogue.entry import load_entries
    from harness.report.catalogue import entry_record, entry_rows

    entries = load_entries()
    if as_json:
        print_json([entry_record(entry) for entry in entries])
        return
    out, _ = terminal.consoles()
    header = ("bug", "origin", "kernels", "caught by signal")
    out.print(terminal.columns("", header, entry_rows(entries)))


@catalogue.command()
@click.argument("bug")
@kernel_option
@json_option
def show(bug: str, kernel: str, as_json: bool) -> None:
    """Show one BUG, with the commands that show it by hand."""
    from harness.jobs.catalogue.entry import load_entries, select
    from harness.report.catalogue import entry_record, entry_text

    out, _ = terminal.consoles()
    (entry,) = select(load_entries(), [bug])
    if as_json:
        print_json(entry_record(entry, kernel))
    else:
        out.print(entry_text(entry, kernel), markup=False, highlight=False, soft_wrap=True)


@catalogue.command()
@click.argument("bugs", nargs=-1)
@kernel_option
@click.option("--clean/--no-clean", default=True, help="Run the same tests with every bug off.")
@runs_option
@json_option
def run(
    bugs: tuple[str, ...],
    kernel: str,
    clean: bool,
    runs: Path,
    as_json: bool,
) -> None:
    """Run the suite's tests with each bug on (or only BUGS), then once with all of them off.

    A bug is caught if a test FAILs for its reason. Exit code 1: one was not; 3: a test fails
    although every bug is off, so that nothing can be said.
    """
    from harness.base.resources import checkout
    from harness.jobs.catalogue.entry import FRAGMENT, load_entries, select
    from harness.jobs.catalogue.runner import pytest_on, run_catalogue
    from harness.kernel.version import Version
    from harness.report.catalogue import result_record, result_rows, summary
    from harness.targets.choose import guest_spec

    entries = select(load_entries(), bugs)
    tree = checkout()  # before a kernel is built in vain
    with working(runs) as (session, progress):
        built = session.kernel_for(guest_spec(target="emulated"), kernel, extra=(FRAGMENT,))
        pytest = pytest_on(built, tree, runs)
        version = Version.parse(built.version)
        results = run_catalogue(entries, version, pytest, clean=clean, notify=progress)
    if as_json:
        print_json([result_record(result) for result in results])
    else:
        out, _ = terminal.consoles()
        header = ("bug", "test", "signal", "time", "bug off")
        out.print(terminal.columns("", header, result_rows(results)))
        out.print(summary(results, built.version), markup=False)
    leave(worst(result.status for result in results))
