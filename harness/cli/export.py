# SPDX-License-Identifier: MIT
"""`cvm-harness export FORMAT RUN…`: results for other programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import click

from harness.base.status import HostError, UsageError
from harness.cli.filters import filter_options
from harness.cli.options import runs_option
from harness.compare.index import Filter, open_index
from harness.record.view import RunView

Renderer = Callable[[Sequence[RunView], str], bytes]


def _ktap(runs: Sequence[RunView], _: str) -> bytes:
    from harness.report.ktap import ktap

    return ktap(runs).encode()


def _kcidb(runs: Sequence[RunView], origin: str) -> bytes:
    from harness.report.kcidb import kcidb

    return (json.dumps(kcidb(runs, origin), indent=1) + "\n").encode()


def _junit(runs: Sequence[RunView], _: str) -> bytes:
    from harness.report.junit import junit

    return junit(runs)


def _csv(runs: Sequence[RunView], _: str) -> bytes:
    from harness.report.tables import metric_table, to_csv

    return to_csv(metric_table(runs))


def _parquet(runs: Sequence[RunView], _: str) -> bytes:
    from harness.report.tables import metric_table, to_parquet

    return to_parquet(metric_table(runs))


def _perfetto(run: RunView, output: Path) -> None:
    from harness.report.perfetto import write_perfetto

    write_perfetto(run, output)


def _trace_dat(run: RunView, output: Path) -> None:
    from harness.report.tracedat import write_trace_dat

    write_trace_dat(run, output)


_FORMATS: dict[str, Renderer] = {
    "csv": _csv,
    "junit": _junit,
    "kcidb": _kcidb,
    "ktap": _ktap,
    "parquet": _parquet,
}
_BINARY = frozenset({"parquet"})
_ONE_RUN: dict[str, Callable[[RunView, Path], None]] = {
    "perfetto": _perfetto,
    "trace.dat": _trace_dat,
}


@click.command()
@click.argument("format_name", metavar="FORMAT")
@click.argument("chosen", metavar="RUN...", nargs=-1, type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), help="File to write.")
@click.option("--origin", default="cvm_harness", show_default=True, help="KCIDB: who submits.")
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
    if format_name not in {*_FORMATS, *_ONE_RUN}:
        known = ", ".join(sorted({*_FORMATS, *_ONE_RUN}))
        raise UsageError(f"unknown format {format_name!r}", hint=f"use one of {known}")
    views = _views(chosen, wanted, runs)
    if format_name in _ONE_RUN:
        if output is None or len(views) != 1:
            raise UsageError(
                f"{format_name} is one run's file", hint="name a RUN and a file with -o"
            )
        _ONE_RUN[format_name](views[0], output)
        return
    if output is None and format_name in _BINARY and sys.stdout.isatty():
        raise UsageError(f"{format_name} is not for terminals", hint="name a file with -o")
    _write(_FORMATS[format_name](views, origin), output)


def _views(chosen: tuple[Path, ...], wanted: Filter, runs: Path) -> list[RunView]:
    if chosen:
        return [RunView.load(path) for path in chosen]
    with open_index(runs) as index:
        found = [RunView.load(runs / row.id) for row in index.runs(wanted)]
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
