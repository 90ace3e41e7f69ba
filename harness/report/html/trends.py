# SPDX-License-Identifier: MIT
"""Metrics over nights, with the places where their level changed."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from harness.analysis.metrics import metric_named
from harness.compare.history import MetricHistory
from harness.report.html.figure import Figure, text

_SCALES = {"ns": (1e-6, "ms"), "bytes": (2.0**-20, "MiB"), "bytes/s": (2.0**-20, "MiB/s")}


def trend_figures(series: Sequence[MetricHistory]) -> list[Figure]:
    """A plot a series; those with a change of level first."""
    ordered = sorted(series, key=lambda one: (not one.changes, -len(one.points)))
    return [_trend(one, f"trend-{number}") for number, one in enumerate(ordered)]


def _trend(series: MetricHistory, id_: str) -> Figure:
    metric = metric_named(series.metric)
    scale, unit = _SCALES.get(metric.unit, (1.0, metric.unit))
    x = [point.row.started_utc for point in series.points]
    figure = go.Figure()
    figure.add_scatter(
        x=x,
        y=[value * scale for value in series.values],
        name="runs",
        mode="markers",
        text=[text(f"{point.row.kernel} {point.row.id}") for point in series.points],
        hovertemplate="%{y:.5g} " + unit + "<br>%{text}<extra></extra>",
    )
    begins = [0, *(change.index for change in series.changes)]
    ends = [*begins[1:], len(x)]
    levels = [change.before for change in series.changes]
    levels += [change.after for change in series.changes[-1:]]
    for level, begin, end in zip(levels, begins, ends, strict=False):
        figure.add_scatter(
            x=[x[begin], x[end - 1]],
            y=[level * scale] * 2,
            mode="lines",
            line={"dash": "dash"},
            name=f"{level * scale:.4g} {unit}",
        )
    for change in series.changes:
        figure.add_vline(x=x[change.index], line={"width": 2, "color": "#d33"})
    figure.update_layout(
        xaxis={"type": "date"}, yaxis={"title": {"text": f"{metric.name}, {unit}"}}
    )
    rows = tuple(
        (
            series.points[c.index].row.id,
            series.points[c.index].row.kernel,
            metric.show(c.before),
            metric.show(c.after),
            "–" if c.relative is None else f"{c.relative:+.2%}",
            f"{c.p_value:.2g}",
        )
        for c in series.changes
    )
    header = ("first run of the new level", "kernel", "before", "after", "change", "p")
    note = f"{series.configuration}; {len(x)} runs, {len(series.changes)} changes of level."
    return Figure(id_, f"{metric.name} over time", figure, note, header if rows else (), rows)
