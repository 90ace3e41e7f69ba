# SPDX-License-Identifier: MIT
"""`cvm-harness build-qemu` and `cvm-harness qemu`: the QEMU whose TCG emulates TDX and SEV-SNP."""

from pathlib import Path

import click

from harness.base.ui import ProgressLine
from harness.cli.common import Group, print_changed, print_tree
from harness.cli.options import PATH
from harness.report import terminal

_source_option = click.option(
    "--source",
    type=PATH,
    metavar="PATH",
    help="A directory or a release's tarball with QEMU's source.  [default: the newest source "
    "package that the distribution offers of a release that patches are carried for]",
)


@click.command("build-qemu")
@_source_option
@click.option(
    "--jobs", type=click.IntRange(min=1), help="Compilers at a time.  [default: one a usable CPU]"
)
@click.option("--force", is_flag=True, help="Build again, from an empty object tree.")
def build_qemu(source: Path | None, jobs: int | None, force: bool) -> None:
    """Build the QEMU that emulates TDX and SEV-SNP under TCG, and print where it is.

    Nothing is built twice; a change to guest-images/qemu compiles what it affects. A QEMU on PATH
    is not touched, and runs all other guests.
    """
    from harness.qemu.build import build_qemu as build

    out, err = terminal.consoles()
    with ProgressLine(err) as progress:
        built = build(source, progress=progress, jobs=jobs, force=force)
    out.print(str(built.binary), markup=False, soft_wrap=True)


@click.group(cls=Group)
def qemu() -> None:
    """The patches that the harness carries for QEMU: work on them in a git tree."""


@qemu.command()
@_source_option
@click.option("--into", type=PATH, help="A new directory.  [default: qemu-VERSION, here]")
def tree(source: Path | None, into: Path | None) -> None:
    """Make a git tree of QEMU with a commit for each carried patch.

    Change a patch by changing its commit (git commit --amend, git rebase -i), then write it back
    with `cvm-harness qemu refresh`.
    """
    from harness.base.store import Store
    from harness.kernel.patch_tree import write_tree
    from harness.qemu.source import open_source, qemu_series

    out, err = terminal.consoles()
    with ProgressLine(err) as progress:
        opened = open_source(source, Store(), progress)
        into = into or Path(f"qemu-{opened.version}")
        patches = write_tree(opened, qemu_series(), into, progress=progress)
    print_tree(out, into, f"QEMU {opened.version}", patches)


@qemu.command()
@click.argument("tree", type=PATH, default=Path())
def refresh(tree: Path) -> None:
    """Write the carried patches back from the commits of TREE (here, if none is given)."""
    from harness.kernel.patch_tree import refresh as write_back
    from harness.qemu.source import qemu_series, upstream_version

    out, _ = terminal.consoles()
    changed = write_back(tree, qemu_series(), lambda read: upstream_version(read("VERSION")))
    print_changed(out, changed)
