# SPDX-License-Identifier: MIT
"""`cvm-harness baseline save|compare|list`: figures kept in git, and runs compared with them."""

from __future__ import annotations

import json
from pathlib import Path

import click

from harness.cli.common import leave
from harness.cli.compare import Tune, criteria_options, load_runs, show, status_of
from harness.cli.groups import Group
from harness.cli.options import json_option
from harness.report import terminal

_RUNS = click.argument(
    "runs", nargs=-1, required=True, metavar="RUN...", type=click.Path(path_type=Path)
)
_DIRECTORY = click.option(
    "--baselines",
    "directory",
    default=Path("baselines"),
    show_default=True,
    type=click.Path(path_type=Path),
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
    from harness.compare.baselines import baseline_of, kernel_config
    from harness.compare.baselines import save as write

    out, _ = terminal.consoles()
    found = load_runs(runs)
    made = baseline_of(found, kernel_config(found[0]))
    out.print(f"{write(made, directory)}: {len(made.metrics)} figures of {len(made.runs)} runs")


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
    from harness.compare.baselines import (
        baseline_for,
        baseline_of,
        compare_with,
        kernel_config,
        load_all,
    )
    from harness.compare.runs import default_criteria
    from harness.compare.verdict import worst_verdict

    found = load_runs(runs)
    now = baseline_of(found, kernel_config(found[0]))
    known = [entry for _, entry in load_all(directory)]
    chosen = baseline_for(now, known, anyway=anyway)
    compared = compare_with(chosen, now, metrics, tune(default_criteria(found[0])))
    differences = [f"kernel: {chosen.kernel} → {now.kernel}"] if chosen.kernel != now.kernel else []
    if chosen.place != now.place:
        differences.append("taken in another place")
    show(compared, differences, as_json=as_json)
    leave(status_of(worst_verdict(compared)))


@baseline.command("list")
@_DIRECTORY
@json_option
def list_baselines(directory: Path, as_json: bool) -> None:
    """Show what baselines there are, and of what."""
    from harness.base.units import format_size
    from harness.compare.baselines import load_all
    from harness.record.rundir import plain

    out, _ = terminal.consoles()
    known = load_all(directory)
    if as_json:
        out.print_json(json.dumps([{"file": p.name, **plain(b)} for p, b in known]))
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
    out.print(terminal.columns("", ["file", "configuration", "kernel", "place", "runs"], rows))
