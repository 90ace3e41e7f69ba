# SPDX-License-Identifier: MIT
"""The command line: `cvm-harness VERB`. Holds no logic of its own."""

import sys
from dataclasses import replace
from pathlib import Path

import click
from click.core import ParameterSource
from rich.console import Console

from harness.base.spec import GuestSpec, SnapshotMode
from harness.base.status import EXIT_INTERRUPTED, HarnessError, Status, worst
from harness.cli.common import leave, print_command, rerun, working
from harness.cli.options import (
    KernelChoice,
    dry_run_option,
    guest_options,
    hardware_cost,
    kernel_options,
    snapshot_option,
    start_options,
    verbose_option,
)
from harness.cli.verbs import Verbs
from harness.report import terminal


@click.group(
    cls=Verbs,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "max_content_width": 100,
        "show_default": True,
    },
    epilog="Exit codes: 0 passed or done, 1 the kernel under test is wrong, 2 usage, 3 could not "
    "judge, 69 host or harness failed, 130 interrupted.",
)
@click.version_option(package_name="cvm-harness")
def app() -> None:
    """Boot confidential VMs (TDX, SEV-SNP, or emulated where the hardware is missing) and test how
    Linux accepts their memory.

    Start with `cvm-harness quickstart`, or ask `cvm-harness doctor` what this machine can run.
    """


@click.command()
@start_options(cost=hardware_cost)
@verbose_option
def quickstart(spec: GuestSpec, kernel: KernelChoice, runs: Path, verbose: bool) -> None:
    """Boot a guest lazily and eagerly, touch memory in it, compare: a table and an HTML page.

    The kernel is built once (about five minutes on two cores) and cached. On tdx and snp it is the
    distribution's own, debian-binary:6.12, and nothing is built but, for TCG, QEMU.
    """
    from harness.studies.quickstart import compare_modes, table, write_page
    from harness.targets.registry import target_for

    out, _ = terminal.consoles()
    source = click.get_current_context().get_parameter_source("source")
    if target_for(spec.target).binary_kernel and source is ParameterSource.DEFAULT:
        kernel = replace(kernel, source=target_for(spec.target).binary_kernel)
    with working(runs, SnapshotMode.FIRMWARE) as (session, progress):
        arms = compare_modes(session, spec, kernel.for_guest(session, spec), rerun(), progress)
    out.print(table(arms))
    for arm in arms:
        out.print(terminal.checks_text(arm.outcome.checks, verbose=verbose))
        out.print(f"run directory ({arm.spec.accept.value}): {arm.directory}", markup=False)
    out.print(f"both runs on one page: {write_page(arms, runs)}", markup=False)
    leave(worst(arm.outcome.status for arm in arms))


@click.command()
@click.option("-c", "--command", help="Run this in the guest instead of a shell.")
@click.option("--keep", is_flag=True, help="Print the ssh command and keep the guest until Ctrl-C.")
@start_options()
@snapshot_option
@dry_run_option
def boot(
    command: str | None,
    keep: bool,
    spec: GuestSpec,
    kernel: KernelChoice,
    runs: Path,
    snapshot: SnapshotMode,
    dry_run: bool,
) -> None:
    """Boot a guest and give a shell in it."""
    from harness.report.analysis import boot_rows, prepared_rows
    from harness.run.interactive import hold, run_command, shell

    out, err = terminal.consoles()
    with working(runs, snapshot) as (session, _):
        prepared = session.prepare(spec, kernel.for_guest(session, spec))
    if dry_run:
        print_command(out, prepared)
        return
    with session.boot(prepared, rerun=rerun()) as guest_run:
        err.print(terminal.figures(prepared_rows(prepared) + boot_rows(guest_run.guest.boot)))
        err.print(f"run directory: {guest_run.directory.path}", markup=False)
        if command:
            code = run_command(guest_run.guest, command)
        elif keep:
            code = hold(guest_run, err)
        else:
            code = shell(guest_run)
        guest_run.directory.finish(Status.DONE)
    sys.exit(code)


@click.command()
@guest_options()
@kernel_options
def build(spec: GuestSpec, kernel: KernelChoice) -> None:
    """Build a kernel for guests and print where it is. Nothing is built twice."""
    with working() as (session, _):
        built = kernel.build(session, spec)
    terminal.consoles()[0].print(f"{built.release} {built.bzimage}", markup=False)


def main() -> None:
    """The console script: every failure ends here, in one message and the right exit code."""
    err = Console(stderr=True, highlight=False, soft_wrap=True)
    try:
        sys.exit(app(standalone_mode=False) or 0)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except HarnessError as error:
        err.print(terminal.error_text(error))
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        err.print("interrupted; everything that was started has been stopped")
        sys.exit(EXIT_INTERRUPTED)
