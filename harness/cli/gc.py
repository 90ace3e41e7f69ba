# SPDX-License-Identifier: MIT
"""`cvm-harness gc`: give disk space back."""

import datetime
from pathlib import Path

import click

from harness.base.options import size
from harness.cli.options import PATH, runs_option
from harness.report.terminal import consoles


@click.command()
@click.option("--keep", default="20G", help="How much of the cache may stay.")
@runs_option
@click.option("--runs-days", type=click.IntRange(min=0), help="Remove older run directories.")
@click.option("--runs-keep", help="Remove the oldest run directories until this much is left.")
@click.option(
    "--baselines",
    multiple=True,
    default=(Path("baselines"),),
    type=PATH,
    help="Directories whose files name runs to keep. May be repeated.",
)
@click.option("--dry-run", is_flag=True, help="Show what there is and remove nothing.")
def gc(
    keep: str,
    runs: Path,
    runs_days: int | None,
    runs_keep: str | None,
    baselines: tuple[Path, ...],
    dry_run: bool,
) -> None:
    """Remove the least recently used kernels, images and sources from the cache; with --runs-days
    or --runs-keep old run directories, too.

    A run that failed, or could not be judged, stays, and so does every run that such a run or a
    baseline names.
    """
    from harness.base.store import Store
    from harness.base.units import format_size
    from harness.compare.retention import examine, removable, remove
    from harness.host.lease import sweep as sweep_leases

    out, _ = consoles()
    limit = size(runs_keep, "--runs-keep") if runs_keep else None
    if runs_days is not None or limit is not None:
        now = datetime.datetime.now(datetime.UTC)
        every = examine(runs, baselines, now)
        going = removable(every, now, days=runs_days, max_bytes=limit)
        if not dry_run:
            remove(going)
        for run in every:
            if run.pinned and dry_run:
                out.print(f"stays {run.path.name}: {run.pinned}", markup=False)
        for run in going:
            out.print(f"run {run.path.name} {format_size(run.size)}", markup=False)
        verb = "would be removed" if dry_run else "removed"
        total = format_size(sum(run.size for run in going))
        out.print(f"{verb}: {len(going)} of {len(every)} runs, {total}", markup=False)
    store = Store()
    rows = store.entries() if dry_run else store.sweep(size(keep, "--keep"))
    if not dry_run:
        sweep_leases()
    for entry in rows:
        out.print(f"{entry.kind} {entry.digest[:12]} {format_size(entry.size)}", markup=False)
    total = format_size(sum(entry.size for entry in rows))
    out.print(f"{'in' if dry_run else 'removed from'} {store.root}: {total}", markup=False)
