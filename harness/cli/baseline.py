# SPDX-License-Identifier: MIT
"""`cvm-harness baseline save|compare|list`: figures kept in git, and runs compared with them."""

from pathlib import Path

import click

from harness.cli.common import Group, print_json
from harness.cli.compare import Tune, criteria_options, leave_with, load_runs, show
from harness.cli.options import PATH, json_option
from harness.record.rundir import plain
from harness.report import terminal

_RUNS = click.argument("runs", nargs=-1, required=True, metavar="RUN...", type=PATH)
_DIRECTORY = click.option(
    "--baselines",
    "directory",
    default=Path("baselines"),
    type=PATH,
    help="Where baselines are: a directory to keep in git.",
)


@click.group(cls=Group)
def baseline() -> None:
    """Keep the figures of runs as a baseline, and compare later runs with it.

    A baseline belongs to one target, guest, workload, kernel config, host and QEMU. Runs made
    elsewhere are refused, and what differs is named.
    """


@baseline.command()
@_RUNS
@_DIRECTORY
def save(runs: tuple[Path, ...], directory: Path) -> None:
    """Keep the figures of RUN… (run directories, or directories of them) as a baseline.

    Replaces an older baseline of the same configuration: git has that.
    """
    from harness.compare import baselines

    made = baselines.baseline_of(load_runs(runs))
    path = baselines.save(made, directory)
    out, _ = terminal.consoles()
    out.print(f"{path}: {len(made.metrics)} figures of {len(made.runs)} runs")


@baseline.command()
@_RUNS
@_DIRECTORY
@criteria_options
@click.option("--anyway", is_flag=True, help="Also with a baseline of another host or QEMU.")
@json_option
def compare(
    runs: tuple[Path, ...],
    directory: Path,
    metrics: tuple[str, ...],
    tune: Tune,
    anyway: bool,
    as_json: bool,
) -> None:
    """Compare RUN… with the baseline of their configuration. Exit codes as for `compare`."""
    from harness.compare.baselines import baseline_for, baseline_of, compare_with
    from harness.compare.runs import default_criteria

    found = load_runs(runs)
    now = baseline_of(found)
    chosen = baseline_for(now, directory, anyway=anyway)
    compared = compare_with(chosen, now, metrics, tune(default_criteria(found[0])))
    differences = [f"kernel: {chosen.kernel} → {now.kernel}"] if chosen.kernel != now.kernel else []
    if chosen.place != now.place:
        differences.append("taken in another place")
    show(compared, differences, as_json=as_json)
    leave_with(compared)


@baseline.command("list")
@_DIRECTORY
@json_option
def list_baselines(directory: Path, as_json: bool) -> None:
    """Show what baselines there are, and of what."""
    from harness.base.units import format_size
    from harness.compare.baselines import load_all

    known = load_all(directory)
    if as_json:
        print_json([{"file": path.name, **plain(b)} for path, b in known])
        return
    rows = [
        (
            path.name,
            f"{b.configuration.workload}, {format_size(b.configuration.memory_bytes)}, "
            f"{b.configuration.vcpus} vCPUs, {b.configuration.accept}, {b.configuration.clock}",
            b.kernel,
            f"{b.place.cpu} × {b.place.cpus}, QEMU {b.place.qemu.split()[0]}",
            str(len(b.runs)),
        )
        for path, b in known
    ]
    out, _ = terminal.consoles()
    out.print(terminal.columns("", ["file", "configuration", "kernel", "place", "runs"], rows))
