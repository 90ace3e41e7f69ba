# SPDX-License-Identifier: MIT
"""`cvm-harness run WORKLOAD`: boot a guest, load it, check everything, say what it cost."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from harness.base.spec import GuestSpec, SnapshotMode
from harness.cli.common import Group, leave, print_command, print_json, rerun, working
from harness.cli.options import (
    KernelChoice,
    collect_options,
    dry_run_option,
    json_option,
    snapshot_option,
    start_options,
    verbose_option,
)
from harness.collect.plan import Collect, TraceMode
from harness.collect.probes import boot_words
from harness.report import terminal
from harness.workloads.base import Parameter, Workload
from harness.workloads.registry import WORKLOADS, build_workload, describe, workload_class

_TYPES = {"count": click.INT, "size": click.STRING, "choice": click.STRING, "text": click.STRING}


class WorkloadGroup(Group):
    """One subcommand a workload, made from its parameters."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(WORKLOADS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command:
        """Raises UsageError for an unknown workload."""
        return workload_command(workload_class(cmd_name))


@click.command("run", cls=WorkloadGroup, subcommand_metavar="WORKLOAD [OPTIONS]...")
def run() -> None:
    """Boot a guest, run WORKLOAD in it, check every counter, say what acceptance cost.

    Each workload has parameters of its own: `cvm-harness run WORKLOAD --help`.
    """


def workload_command(cls: type[Workload]) -> click.Command:
    name = cls.name

    @click.command(name, help=cls.__doc__)
    @start_options()
    @collect_options
    @snapshot_option
    @dry_run_option
    @json_option
    @verbose_option
    def command(
        spec: GuestSpec,
        collect: Collect,
        kernel: KernelChoice,
        runs: Path,
        snapshot: SnapshotMode,
        dry_run: bool,
        as_json: bool,
        verbose: bool,
        **given: Any,
    ) -> None:
        from harness.report.analysis import screen

        load = build_workload(name, given, spec.memory)
        spec = load.adapted(spec)
        if collect.trace is TraceMode.PROBES:
            spec = replace(spec, extra_cmdline=(*spec.extra_cmdline, *boot_words()))
        out, _ = terminal.consoles()
        with working(runs, snapshot) as (session, progress):
            prepared = session.prepare(spec, kernel.for_guest(session, spec))
            if dry_run:
                print_command(out, prepared)
                return
            progress("booting")
            with session.boot(prepared, rerun=rerun(), collect=collect) as guest_run:
                guest_run.load(load, progress, progress)
                progress("reading counters and trace")
                outcome = guest_run.conclude()
        if as_json:
            print_json(outcome)
        else:
            out.print(screen(outcome, verbose=verbose))
            out.print(f"run directory: {guest_run.directory.path}\nrerun: {rerun()}", markup=False)
        leave(outcome.status)

    command.params = [_option(parameter, cls) for parameter in cls.parameters()] + command.params
    return command


def _option(parameter: Parameter, cls: type[Workload]) -> click.Parameter:
    default = describe(parameter, cls)
    help_text = parameter.help
    if parameter.choices:
        help_text += f" One of {', '.join(parameter.choices)}."
    if parameter.kind == "words":
        return click.Argument([parameter.name], nargs=-1, type=click.UNPROCESSED)
    if parameter.kind == "flag":
        return click.Option([parameter.option], is_flag=True, default=None, help=help_text)
    if default:
        help_text += f"  [default: {default}]"
    return click.Option([parameter.option], type=_TYPES[parameter.kind], help=help_text)
