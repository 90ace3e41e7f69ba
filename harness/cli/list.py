# SPDX-License-Identifier: MIT
"""`cvm-harness list`: which runs there are, and their outcomes."""

from pathlib import Path

import click

from harness.cli.common import print_json
from harness.cli.filters import filter_options
from harness.cli.options import json_option, runs_option
from harness.compare.index import Filter, Row, index_of


@click.command("list")
@filter_options
@click.option("-n", "--last", default=50, help="The last so many; 0 for all.")
@runs_option
@json_option
def list_runs(wanted: Filter, last: int, runs: Path, as_json: bool) -> None:
    """List runs, oldest first.

    \b
    cvm-harness list --status fail --since 7d
    cvm-harness list --workload touch --kernel 6.12 --json
    """
    from harness.report.terminal import columns, consoles

    out, err = consoles()
    index = index_of(runs)
    rows = index.runs(wanted, last)
    if as_json:
        print_json(rows)
    elif rows:
        header = ["run", "verdict", "took", "target", "kernel", "guest", "workload", "cause"]
        if not out.is_terminal:
            out.width = 240
        out.print(columns("", header, [_cells(row) for row in rows]), soft_wrap=False)
    else:
        err.print(f"no run in {runs} matches", markup=False)
    for name, why in index.unreadable():
        err.print(f"passed over {name}: {why}", markup=False)


def _cells(row: Row) -> list[str]:
    from harness.base.units import format_size

    guest = f"{format_size(row.memory_bytes or 0)}, {row.vcpus or '?'} vCPUs, {row.accept}"
    took = "–" if row.duration_s is None else f"{row.duration_s:.1f} s"
    cause = row.cause if len(row.cause) <= 80 else row.cause[:79] + "…"
    return [row.id, row.status, took, row.target, row.kernel, guest, row.workload, cause]
