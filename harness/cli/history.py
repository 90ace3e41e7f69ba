# SPDX-License-Identifier: MIT
"""`cvm-harness history METRIC`: one figure over all runs of the same configuration."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from harness.cli.common import print_json
from harness.cli.filters import filter_options
from harness.cli.options import json_option, runs_option
from harness.compare.index import Filter, index_of

if TYPE_CHECKING:
    from harness.analysis.metrics import Metric
    from harness.compare.history import MetricHistory

_BARS = "▁▂▃▄▅▆▇█"


@click.command()
@click.argument("metric", required=False)
@filter_options
@click.option("--points", is_flag=True, help="Show every run, not only the levels.")
@runs_option
@json_option
def history(metric: str | None, wanted: Filter, points: bool, runs: Path, as_json: bool) -> None:
    """Show METRIC over time, and where its level changed. Without METRIC: list the metrics.

    Runs are compared only with runs of the same target, guest, workload, accelerator, clock and
    cost model; the kernel is what may differ.

    \b
    cvm-harness history accept.p99_ns --since 30d
    cvm-harness history boot.init_ns --accept lazy --points
    """
    from harness.analysis.metrics import METRICS, metric_named
    from harness.compare.history import series_of
    from harness.report.terminal import columns, consoles

    out, err = consoles()
    if metric is None:
        rows = [(m.name, m.unit, m.better.value, m.meaning) for m in METRICS]
        out.print(columns("", ["metric", "unit", "better", "meaning"], rows))
        return
    known = metric_named(metric)
    series = series_of(metric, index_of(runs).history(metric, wanted))
    if as_json:
        print_json([_plain(known, one) for one in series])
        return
    if not series:
        err.print(f"no run in {runs} has {metric}", markup=False)
    for one in series:
        _show(out, known, one, points=points)


def _show(out: Any, metric: Metric, series: MetricHistory, *, points: bool) -> None:
    from harness.report.terminal import columns

    out.print(f"\n{metric.name}, {metric.meaning}", markup=False)
    out.print(f"{series.configuration}: {len(series.points)} runs", markup=False)
    out.print(_sparkline(series.values))
    if points:
        changed = {change.index for change in series.changes}
        rows = [
            (p.row.id, p.row.kernel, metric.show(p.value), "◄ level changes" * (i in changed))
            for i, p in enumerate(series.points)
        ]
        if not out.is_terminal:
            out.width = 240
        out.print(columns("", ["run", "kernel", metric.unit, ""], rows), soft_wrap=False)
    for change in series.changes:
        first = series.points[change.index].row
        share = "" if change.relative is None else f" ({change.relative:+.2%})"
        out.print(
            f"level changes at {first.id}, kernel {first.kernel}: {metric.show(change.before)} → "
            f"{metric.show(change.after)}{share}, p = {change.p_value:.2g}",
            markup=False,
        )
    if not series.changes:
        enough = len(series.points) >= 6
        out.print("no change of level" if enough else "too few runs to see a change (6 are needed)")


def _sparkline(values: list[float], width: int = 80) -> str:
    """The last `width` values as bars from their least to their largest."""
    shown = values[-width:]
    low, span = min(shown), max(shown) - min(shown)
    top = len(_BARS) - 1
    return "".join(_BARS[round((value - low) / span * top) if span else 0] for value in shown)


def _plain(metric: Metric, series: MetricHistory) -> dict[str, object]:
    return {
        "metric": metric.name,
        "unit": metric.unit,
        "better": metric.better.value,
        "configuration": series.configuration,
        "points": [
            {"run": p.row.id, "started_utc": p.row.started_utc, "kernel": p.row.kernel,
             "value": p.value}
            for p in series.points
        ],
        "changes": [
            {"run": series.points[c.index].row.id, "before": c.before, "after": c.after,
             "p_value": c.p_value}
            for c in series.changes
        ],
    }  # fmt: skip
