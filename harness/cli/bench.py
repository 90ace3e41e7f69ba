# SPDX-License-Identifier: MIT
"""`cvm-harness bench`: arms side by side, how fast guests start, how often verdicts are wrong."""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import click

from harness.base.guest_options import read_options, with_options
from harness.base.options import size
from harness.base.spec import AcceptMode, Clock, GuestSpec, SnapshotMode
from harness.base.status import Status, UsageError
from harness.base.units import format_ns
from harness.cli.common import Group, leave, print_json, rerun, working
from harness.cli.compare import Tune, criteria_options, leave_with, load_runs, show
from harness.cli.options import PATH, KernelChoice, json_option, snapshot_option_of, start_options
from harness.record.rundir import plain
from harness.report import terminal

if TYPE_CHECKING:
    from harness.run.session import Session


alone_option = click.option(
    "--alone/--share",
    default=True,
    help="Wait until no guest of another process runs, and let none start meanwhile.",
)


@click.group(cls=Group)
def bench() -> None:
    """Measure: two kernels side by side, how fast guests start, how far verdicts can be trusted."""


@bench.command()
@click.argument("workload")
@click.option(
    "--with",
    "parameters",
    multiple=True,
    metavar="NAME=VALUE",
    help="A parameter of the workload, e.g. bytes=512M. May be repeated.",
)
@click.option("--runs-per-arm", default=8, help="Runs an arm at most.")
@click.option("--looks", default=4, help="How often to look and perhaps stop early.")
@click.option("--seed", default=0, help="Of the order of runs.")
@click.option("--b-kernel", help="Arm B's kernel.")
@click.option("--b-patch", multiple=True, type=PATH, help="Arm B's patches.")
@click.option("--b-cost", help="Arm B's cost model.")
@click.option("--b-accept", type=click.Choice([m.value for m in AcceptMode]), help="Arm B's mode.")
@click.option("--b-append", help="More words for arm B's kernel command line.")
@criteria_options
@start_options()
@snapshot_option_of(
    SnapshotMode.OFF,
    "off: boot each guest. auto: start each arm's guests from one saved boot, which is "
    "sooner; how one boot differs from another is then taken for the arms' difference.",
)
@alone_option
@json_option
def ab(
    workload: str,
    parameters: tuple[str, ...],
    runs_per_arm: int,
    looks: int,
    seed: int,
    b_kernel: str | None,
    b_patch: tuple[Path, ...],
    b_cost: str | None,
    b_accept: str | None,
    b_append: str | None,
    metrics: tuple[str, ...],
    tune: Tune,
    spec: GuestSpec,
    kernel: KernelChoice,
    runs: Path,
    snapshot: SnapshotMode,
    alone: bool,
    as_json: bool,
) -> None:
    """Run WORKLOAD in fresh guests of arm A and arm B, interleaved and in random order.

    Arm B is arm A but for what the --b options change; with none of them both are the same, and a
    difference would be a false alarm. Ends as soon as the answer is clear; looking early costs no
    more false alarms than waiting. Runs of each arm are linked under RUNS/ab-…/A and B, for
    `cvm-harness compare`.

    \b
    cvm-harness bench ab touch --with bytes=1G --clock icount --vcpus 1 --b-patch fix.patch
    cvm-harness bench ab parallel-touch --cost tdx --b-kernel debian:7.3 --runs-per-arm 44
    """
    from harness.collect.plan import Collect
    from harness.compare.runs import check_comparable
    from harness.studies.ab import Design, guest_runner, side_by_side, write_arms
    from harness.workloads.registry import build_workload

    load = build_workload(workload, dict(map(_pair, parameters)), spec.memory)
    spec_a = load.adapted(spec)
    changes = read_options({"cost": b_cost, "accept": b_accept})
    if b_append:
        changes["append"] = (*spec.extra_cmdline, *b_append.split())
    spec_b = with_options(spec_a, changes)
    kernel_b = dataclasses.replace(
        kernel, source=b_kernel or kernel.source, patches=(*kernel.patches, *b_patch)
    )
    design = Design(runs_per_arm, looks, seed, metrics)
    with working(runs, snapshot) as (session, progress):
        arms = {
            "A": session.prepare(spec_a, kernel.for_guest(session, spec_a)),
            "B": session.prepare(spec_b, kernel_b.for_guest(session, spec_b)),
        }
        # The sampler would be one more load on what is measured.
        one = guest_runner(session, arms, load, Collect(hz=0), rerun(), progress)
        # Instructions are the same however busy the host is.
        with _host(session, alone and spec.clock is Clock.WALL):
            series = side_by_side(design, one, tune, progress)
    directory = runs / f"ab-{series.a[0].id}"
    write_arms(series, directory)
    differences = check_comparable(series.a, series.b, anyway=True)
    show(series.found, differences, series.a, series.b, as_json=as_json)
    if not as_json:
        ended = "stopped early" if series.stopped_early else "ran to the end"
        _, err = terminal.consoles()
        err.print(f"{ended} at {len(series.a)} runs an arm; {directory}", markup=False)
    leave_with(series.found)


def _host(session: Session, alone: bool) -> contextlib.AbstractContextManager[None]:
    return session.alone() if alone else contextlib.nullcontext()


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise UsageError(f"--with: not NAME=VALUE: {text!r}", hint="e.g. --with bytes=512M")
    return name.replace("-", "_"), value


@bench.command()
@click.option(
    "--memories",
    default="2G,16G,64G",
    help="Guest sizes to restore; the first is booted cold as well.",
)
@click.option("--repeat", default=5, help="Runs of each way, in turns.")
@start_options()
@alone_option
@json_option
def starts(
    memories: str,
    repeat: int,
    spec: GuestSpec,
    kernel: KernelChoice,
    runs: Path,
    alone: bool,
    as_json: bool,
) -> None:
    """How long until a guest answers: cold boot, restored from a snapshot, virtme-ng.

    The cold boot stands beside the same QEMU line run by hand with the stock ssh client: what it
    takes longer is the harness's own. virtme-ng takes part if `vng` is on PATH, with the same
    kernel, accelerator and memory.
    """
    from harness.studies.starts import STAGES, measure

    sizes = tuple(size(text, "--memories") for text in memories.split(","))
    with working(runs) as (session, progress):
        built = kernel.for_guest(session, spec)
        with _host(session, alone):
            ways = measure(runs, spec, built, sizes, repeat, progress)
    if as_json:
        print_json(ways)
        return
    rows = []
    for way in ways:
        medians = (way.median_ns(stage) for stage in STAGES)
        rows.append((way.name, *("–" if m is None else format_ns(m) for m in medians), way.note))
    header = ["median of host time since spawn", *STAGES, ""]
    out, _ = terminal.consoles()
    out.print(terminal.columns(f"{repeat} runs each, in turns", header, rows))


@bench.command()
@click.option("--guests", default=20, help="How many at once.")
@start_options(memory="2G")
@alone_option
@json_option
def crowd(
    guests: int, spec: GuestSpec, kernel: KernelChoice, runs: Path, alone: bool, as_json: bool
) -> None:
    """Restore many guests at once from one snapshot: how long, and how much memory they share."""
    from harness.base.units import format_size
    from harness.studies.crowd import gather

    with working(runs) as (session, progress):
        prepared = session.prepare(spec, kernel.for_guest(session, spec))
        with _host(session, alone):
            found = gather(runs, prepared, guests, progress)
    if as_json:
        print_json(found)
        return
    saved = 1 - found.proportional_bytes / found.resident_bytes
    rows = [
        ("guests at once", str(found.guests)),
        ("until the last was restored and proven", format_ns(found.all_ready_ns)),
        ("resident, each with its own copy", format_size(found.resident_bytes)),
        ("resident, shared pages counted once", format_size(found.proportional_bytes)),
        ("shared", f"{saved:.0%}"),
    ]
    out, _ = terminal.consoles()
    out.print(terminal.figures(rows))


@bench.command()
@click.argument("recorded", nargs=-1, required=True, type=PATH)
@click.option("--metric", default="workload.elapsed_ns", help="Which figure.")
@click.option("--runs-per-arm", default=7, help="Runs of each arm of a split.")
@click.option("--comparisons", default=100, help="Random splits.")
@click.option("--effect", default=0.05, help="Slow-down to put into one arm.")
@json_option
def alarms(
    recorded: tuple[Path, ...],
    metric: str,
    runs_per_arm: int,
    comparisons: int,
    effect: float,
    as_json: bool,
) -> None:
    """How often runs of ONE configuration are called different (never should), and how often a
    slow-down is found that was put into half of them. RECORDED: their run directories.

    Exit code 1 if the false alarms are above their rate beyond chance.
    """
    from harness.analysis.metrics import metric_named
    from harness.compare.runs import check_arm, criteria_for, default_criteria
    from harness.studies.alarms import false_alarms, found

    views = load_runs(recorded)
    check_arm("to be split", views)
    known = metric_named(metric)
    values = [value for run in views if (value := known.value(run)) is not None]
    criteria = criteria_for(known, default_criteria(views[0]))
    rates = [
        false_alarms(values, runs_per_arm, comparisons, criteria),
        found(values, effect, comparisons, criteria, runs_per_arm),
    ]
    if as_json:
        print_json([{**plain(rate), "interval": rate.interval} for rate in rates])
    else:
        rows = [
            (
                rate.name,
                str(rate.runs_an_arm),
                f"{rate.count} of {rate.comparisons}",
                f"{rate.interval[0]:.1%} to {rate.interval[1]:.1%}",
                rate.promised,
            )
            for rate in rates
        ]
        header = ["", "runs an arm", "comparisons", "95 % interval of the rate", "promised"]
        title = f"{metric} of {len(values)} runs, split at random"
        out, _ = terminal.consoles()
        out.print(terminal.columns(title, header, rows))
    above = rates[0].interval[0] > criteria.errors.alpha
    leave(Status.FAIL if above else Status.DONE)
