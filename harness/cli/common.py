# SPDX-License-Identifier: MIT
"""What several verbs do at their ends."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from harness.base.status import Status

if TYPE_CHECKING:
    from harness.kernel.series import Carried
    from harness.run.prepared import Prepared


def rerun() -> str:
    """The command line that was given, to be pasted."""
    return shlex.join(["cvm-harness", *sys.argv[1:]])


def print_command(out: Console, prepared: Prepared) -> None:
    """The commands that start the guest by hand."""
    from harness.run.prepared import join_initrd

    out.print(join_initrd([layer.path for layer in prepared.image.layers]), markup=False)
    out.print(prepared.machine(Path("initrd.img")).command_line(), markup=False)


def print_tree(out: Console, into: Path, what: str, patches: Sequence[Carried]) -> None:
    """The git tree that was made, and its commits."""
    out.print(f"{into}: {what} and {len(patches)} patches", markup=False)
    for patch in patches:
        out.print(f"  {patch.name}: {patch.summary}", markup=False)


def print_changed(out: Console, changed: Sequence[Path]) -> None:
    """The files that were written back from a tree."""
    for path in changed:
        out.print(str(path), markup=False)
    out.print(f"{len(changed)} files changed")


def leave(status: Status) -> None:
    """End with the exit code of `status`."""
    sys.exit(status.exit_code)
