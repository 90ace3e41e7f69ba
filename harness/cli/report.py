# SPDX-License-Identifier: MIT
"""`cvm-harness report RUN…|NIGHT|SERIES`: one HTML file to look at and to send."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from harness.base.status import HostError, UsageError
from harness.cli.options import PATH, runs_option
from harness.compare.index import index_of
from harness.record.view import RunView

if TYPE_CHECKING:
    from harness.compare.history import MetricHistory
    from harness.report.html.content import Page


@click.command()
@click.argument("chosen", metavar="RUN...|NIGHT|SERIES", nargs=-1, type=PATH)
@click.option("-o", "--output", default=Path("report.html"), type=PATH, help="File to write.")
@click.option("--trend", multiple=True, help="Metric to show over all of --runs. May be repeated.")
@runs_option
def report(chosen: tuple[Path, ...], output: Path, trend: tuple[str, ...], runs: Path) -> None:
    """Write an HTML report: verdicts first, then timelines, latencies and costs.

    One file, without network. RUN is a run directory; two are put over each other and their inputs
    compared. NIGHT is the directory of a night, SERIES that of a checked series. With none of
    these: the newest run in --runs.

    \b
    cvm-harness report
    cvm-harness report runs/A runs/B -o ab.html
    cvm-harness report nights/mm-unstable --trend accept.p99_ns
    cvm-harness report series/fixes
    """
    from harness.report.html.render import render
    from harness.report.terminal import consoles

    out, _ = consoles()
    page = _page(chosen or (_newest(runs),), _trends(trend, runs))
    content = render(page)
    try:
        output.write_text(content, encoding="utf-8")
    except OSError as error:
        raise HostError(f"cannot write {output}: {error.strerror}") from error
    out.print(f"{page.verdict}: {output}, {len(content) / 1e6:.1f} MB", markup=False)


def _page(chosen: Sequence[Path], trends: Sequence[MetricHistory]) -> Page:
    from harness.record import night, series
    from harness.report.html.content import night_page, runs_page, series_page

    kinds = {night.FILE: night_page, series.FILE: series_page}
    alone = [
        (path, make) for path in chosen for file, make in kinds.items() if (path / file).exists()
    ]
    if not alone:
        return runs_page([RunView.load(path) for path in chosen], trends)
    path, make = alone[0]
    if len(chosen) > 1:
        raise UsageError("a night or a series is reported alone", hint=f"cvm-harness report {path}")
    return make(path, trends)


def _newest(runs: Path) -> Path:
    rows = index_of(runs).runs(limit=1)
    if not rows:
        raise UsageError(f"no run in {runs}", hint="name a run directory, or use --runs DIR")
    return runs / rows[0].id


def _trends(metrics: Sequence[str], runs: Path) -> list[MetricHistory]:
    from harness.analysis.metrics import metric_named
    from harness.compare.history import series_of

    if not metrics:
        return []
    index = index_of(runs)
    return [
        one
        for metric in metrics
        for one in series_of(metric_named(metric).name, index.history(metric))
    ]
