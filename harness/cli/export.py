# SPDX-License-Identifier: MIT
"""`cvm-harness export FORMAT RUN…`: results for other programs."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from harness.base.status import HostError, UsageError
from harness.cli.filters import filter_options
from harness.cli.options import PATH, runs_option
from harness.compare.index import Filter, index_of
from harness.record.view import RunView

_OF_RUNS = ("csv", "junit", "kcidb", "ktap", "parquet")
_OF_ONE_RUN = ("perfetto", "trace.dat")


def _rendered(format_name: str, runs: Sequence[RunView], origin: str) -> bytes:
    if format_name == "ktap":
        from harness.report.ktap import ktap

        return ktap(runs).encode()
    if format_name == "kcidb":
        from harness.report.kcidb import kcidb

        return (json.dumps(kcidb(runs, origin), indent=1) + "\n").encode()
    if format_name == "junit":
        from harness.report.junit import junit

        return junit(runs)
    from harness.report.tables import metric_table, to_csv, to_parquet

    return (to_csv if format_name == "csv" else to_parquet)(metric_table(runs))


def _write_one(format_name: str, run: RunView, output: Path) -> None:
    from harness.report.perfetto import write_perfetto
    from harness.report.tracedat import write_trace_dat

    (write_perfetto if format_name == "perfetto" else write_trace_dat)(run, output)


@click.command()
@click.argument("format_name", metavar="FORMAT")
@click.argument("chosen", metavar="RUN...", nargs=-1, type=PATH)
@click.option("-o", "--output", type=PATH, help="File to write.")
@click.option("--origin", default="cvm_harness", help="KCIDB: who submits.")
@filter_options
@runs_option
def export(
    format_name: str,
    chosen: tuple[Path, ...],
    output: Path | None,
    origin: str,
    wanted: Filter,
    runs: Path,
) -> None:
    """Write runs for other programs. Without RUN: all in --runs that the filters let pass.

    \b
    ktap     the kernel's test format          junit    JUnit XML
    kcidb    kernelci.org's database           csv      one row a run, one column a metric
    parquet  the same, typed
    perfetto one run for ui.perfetto.dev         trace.dat  its accept events for trace-cmd

    \b
    cvm-harness export ktap runs/20261124T020000Z-0a1b2c
    cvm-harness export parquet --since 30d -o metrics.parquet
    """
    if format_name not in (*_OF_RUNS, *_OF_ONE_RUN):
        known = ", ".join(sorted((*_OF_RUNS, *_OF_ONE_RUN)))
        raise UsageError(f"unknown format {format_name!r}", hint=f"use one of {known}")
    views = _views(chosen, wanted, runs)
    if format_name in _OF_ONE_RUN:
        if output is None or len(views) != 1:
            raise UsageError(
                f"{format_name} is one run's file", hint="name a RUN and a file with -o"
            )
        _write_one(format_name, views[0], output)
        return
    if output is None and format_name == "parquet" and sys.stdout.isatty():
        raise UsageError(f"{format_name} is not for terminals", hint="name a file with -o")
    _write(_rendered(format_name, views, origin), output)


def _views(chosen: tuple[Path, ...], wanted: Filter, runs: Path) -> list[RunView]:
    if chosen:
        return [RunView.load(path) for path in chosen]
    found = [RunView.load(runs / row.id) for row in index_of(runs).runs(wanted)]
    if not found:
        raise UsageError(f"no run in {runs} matches", hint="see `cvm-harness list`")
    return found


def _write(content: bytes, output: Path | None) -> None:
    if output is None:
        sys.stdout.buffer.write(content)
        return
    try:
        output.write_bytes(content)
    except OSError as error:
        raise HostError(f"cannot write {output}: {error.strerror}") from error
