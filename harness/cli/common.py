# SPDX-License-Identifier: MIT
"""What several verbs have in common: groups of them, sessions, and how they end."""

from __future__ import annotations

import contextlib
import inspect
import json
import shlex
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click
from rich.console import Console

from harness.base.spec import SnapshotMode
from harness.base.status import Status
from harness.base.ui import ProgressLine
from harness.record.rundir import plain
from harness.report import terminal

if TYPE_CHECKING:
    from harness.kernel.series import Carried
    from harness.run.prepared import Prepared
    from harness.run.session import Session


class Group(click.Group):
    """Lists its commands with the first sentence of each in full: click cuts it to the line."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            names = self.list_commands(ctx)
            formatter.write_dl([(name, self.summary(ctx, name)) for name in names])

    def summary(self, ctx: click.Context, name: str) -> str:
        command = self.get_command(ctx, name)
        assert command
        paragraph = inspect.cleandoc(command.help or "").split("\n\n")[0]
        sentence, stop, _ = " ".join(paragraph.split()).partition(". ")
        return sentence + stop.rstrip()


def rerun() -> str:
    """The command line that was given, to be pasted."""
    return shlex.join(["cvm-harness", *sys.argv[1:]])


def print_command(out: Console, prepared: Prepared) -> None:
    """The commands that start the guest by hand."""
    from harness.run.prepared import join_initrd

    out.print(join_initrd([layer.path for layer in prepared.image.layers]), markup=False)
    out.print(prepared.machine(Path("initrd.img")).command_line(), markup=False)


def print_tree(out: Console, into: Path, what: str, patches: Sequence[Carried]) -> None:
    out.print(f"{into}: {what} and {len(patches)} patches", markup=False)
    for patch in patches:
        out.print(f"  {patch.name}: {patch.summary}", markup=False)


def print_changed(out: Console, changed: Sequence[Path]) -> None:
    for path in changed:
        out.print(str(path), markup=False)
    out.print(f"{len(changed)} files changed")


@contextlib.contextmanager
def working(
    runs: Path = Path("runs"), snapshot: SnapshotMode = SnapshotMode.OFF
) -> Iterator[tuple[Session, ProgressLine]]:
    """A session, and the line on standard error that shows how far it is."""
    from harness.run.session import Session

    with ProgressLine(terminal.consoles()[1]) as progress:
        yield Session(runs=runs, progress=progress, snapshot=snapshot), progress


def timestamp() -> str:
    """Now, UTC, as directories are named."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}"


def print_json(value: object) -> None:
    """`value` on standard output, for machines."""
    terminal.consoles()[0].print_json(json.dumps(plain(value)))


def leave(status: Status) -> NoReturn:
    """End with the exit code of `status`."""
    sys.exit(status.exit_code)
