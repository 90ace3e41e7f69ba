# SPDX-License-Identifier: MIT
"""`cvm-harness boot-study`: what lazy acceptance is worth at boot, over guest sizes."""

from pathlib import Path

import click

from harness.base.options import size
from harness.base.spec import GuestSpec
from harness.base.status import UsageError
from harness.cli.common import leave, print_json, rerun, timestamp, working
from harness.cli.options import PATH, KernelChoice, hardware_cost, json_option, start_options
from harness.report import terminal


@click.command("boot-study")
@click.option("--sizes", default="4G,16G,64G", help="Memory sizes to boot.")
@click.option("--cpus", default="2", help="Numbers of vCPUs: 1,4,16.")
@click.option("--repeat", default=3, help="Boots of each size and mode.")
@click.option("--out", type=PATH, help="Where table and plot go.  [default: in --runs]")
@click.option(
    "--from", "recorded", type=PATH, help="Boot nothing: table and plot of a recorded study."
)
@start_options(cost=hardware_cost)
@json_option
def boot_study(
    sizes: str,
    cpus: str,
    repeat: int,
    out: Path | None,
    recorded: Path | None,
    spec: GuestSpec,
    kernel: KernelChoice,
    runs: Path,
    as_json: bool,
) -> None:
    """Boot guests lazily and eagerly over a ladder of sizes; say what lazy acceptance is worth.

    Answers in one table: time to the first userspace instruction with and without, GiB accepted per
    second, how much was accepted by then and how much could have been. On the emulated target the
    cost of acceptance is a model (--cost); on hardware it is what it is.
    """
    from harness.report.bootstudy import plot, table
    from harness.studies.bootstudy import BootPlan, as_record, load_study, run_study

    console, _ = terminal.consoles()
    if recorded:
        found, out = load_study(recorded), out or recorded
    else:
        plan = BootPlan(
            tuple(size(text, "--sizes") for text in sizes.split(",")),
            tuple(_count(text) for text in cpus.split(",")),
            repeat,
        )
        out = out or runs / f"boot-study-{timestamp()}"
        with working(runs) as (session, progress):
            built = kernel.for_guest(session, spec)
            with session.timing(spec):
                found = run_study(session, plan, spec, built, out, rerun(), progress)
    title = f"Time to userspace, {found.title}"
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--out: cannot make {out}: {error.strerror}") from error
    plots = plot(found.rows, title, out / "boot-study")
    if as_json:
        print_json(as_record(found))
    else:
        console.print(terminal.status_text(found.status))
        console.print(table(found.rows, title))
        for failure in found.failures:
            console.print(failure, markup=False)
        console.print(f"plot: {plots[0]}, {plots[1]}\nrerun: {rerun()}", markup=False)
    leave(found.status)


def _count(text: str) -> int:
    if not text.strip().isdecimal():
        raise UsageError(f"--cpus: not a number of vCPUs: {text!r}")
    return int(text)
