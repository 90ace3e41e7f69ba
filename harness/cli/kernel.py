# SPDX-License-Identifier: MIT
"""`cvm-harness kernel`: the carried patches as a git tree to work in, and back."""

from pathlib import Path

import click

from harness.base.options import DEFAULT_KERNEL
from harness.base.ui import ProgressLine
from harness.cli.common import Group, print_changed, print_tree
from harness.cli.options import PATH
from harness.report import terminal


@click.group(cls=Group)
def kernel() -> None:
    """The patches that the harness carries for kernels: work on them in a git tree."""


@kernel.command()
@click.option(
    "--kernel",
    "source",
    default=DEFAULT_KERNEL,
    metavar="SOURCE",
    help="What the patches go on: debian:6.12, a kernel tree, or git:REPOSITORY@REF.",
)
@click.option(
    "--fragment",
    multiple=True,
    help="Also the patches of this config fragment: bugs, no-event, suspend. May be repeated.",
)
@click.option("--into", type=PATH, help="A new directory.  [default: linux-VERSION, here]")
def tree(source: str, fragment: tuple[str, ...], into: Path | None) -> None:
    """Make a git tree of a kernel with a commit for each carried patch.

    Change a patch by changing its commit (git commit --amend, git rebase -i), then write it back
    with `cvm-harness kernel refresh`.
    """
    from harness.base.store import Store
    from harness.kernel.patch_tree import write_tree
    from harness.kernel.series import read_series
    from harness.kernel.source import open_source, parse_source

    out, err = terminal.consoles()
    with ProgressLine(err) as progress:
        opened = open_source(parse_source(source), Store(), progress)
        into = into or Path(f"linux-{opened.version}")
        patches = write_tree(opened, read_series(), into, fragment, progress)
    print_tree(out, into, f"kernel {opened.version}", patches)


@kernel.command()
@click.argument("tree", type=PATH, default=Path())
def refresh(tree: Path) -> None:
    """Write the carried patches back from the commits of TREE (here, if none is given)."""
    from harness.kernel.patch_tree import refresh as write_back
    from harness.kernel.series import read_series
    from harness.kernel.version import makefile_version

    out, _ = terminal.consoles()
    changed = write_back(tree, read_series(), lambda read: makefile_version(read("Makefile")))
    print_changed(out, changed)
