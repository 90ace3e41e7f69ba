# SPDX-License-Identifier: MIT
"""What nights and series measured: comparisons with their intervals, costs, metrics over nights."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go

from harness.analysis.metrics import metric_named
from harness.compare.history import MetricHistory
from harness.record.comparison import Comparison, Interval
from harness.record.night import CellResult
from harness.record.series import SeriesResults
from harness.report.html.figure import Figure, text

_SCALES = {"ns": (1e-6, "ms"), "bytes": (2.0**-20, "MiB"), "bytes/s": (2.0**-20, "MiB/s")}


def cost_figures(cells: Sequence[CellResult]) -> list[Figure]:
    """Effects with their intervals over all comparisons, then each metric's values by kernel."""
    rows = [(f"{cell.key}: {c.metric}", c) for cell in cells for c in cell.comparisons]
    found = _effects("patched against base", "change against base, %", rows)
    for cell in cells:
        for metric, arms in cell.values.items():
            if any(arms.values()):
                found.append(_arms(f"cost-{len(found)}", cell, metric, arms))
    return found


def series_figures(series: SeriesResults) -> list[Figure]:
    """What each commit changes, and what all up to it cost."""
    rows = [(commit.title, commit.change) for commit in series.rows if commit.change]
    found = _effects("each commit against the one before", "change by the commit, %", rows)
    measured = [commit for commit in series.rows if commit.cost is not None]
    if measured:
        figure = go.Figure()
        figure.add_scatter(
            x=[text(commit.title) for commit in measured],
            y=[commit.cost for commit in measured],
            mode="lines+markers",
            line={"shape": "hv"},
        )
        figure.update_layout(
            xaxis={"type": "category", "automargin": True},
            yaxis={"title": {"text": text(series.metric)}},
        )
        found.append(Figure("cost-per-commit", f"{series.metric} after each commit", figure))
    return found


def _effects(title: str, axis: str, compared: Sequence[tuple[str, Comparison]]) -> list[Figure]:
    rows = [(name, c) for name, c in compared if math.isfinite(c.effect)]
    if not rows:
        return []
    figure = go.Figure()
    for verdict in dict.fromkeys(c.verdict for _, c in rows):
        mine = [(name, c) for name, c in rows if c.verdict is verdict]
        effects = np.array([100 * c.effect for _, c in mine])
        ends = [c.interval or Interval(c.ratio, c.ratio, 0, "") for _, c in mine]
        low, high = (100 * np.array([[e.low - 1, e.high - 1] for e in ends])).T
        figure.add_scatter(
            x=effects,
            y=[text(name) for name, _ in mine],
            mode="markers",
            marker={"size": 9},
            name=text(verdict.value),
            error_x={"array": high - effects, "arrayminus": effects - low},
        )
    figure.add_vline(x=0, line={"width": 1})
    figure.update_layout(
        xaxis={"title": {"text": axis}},
        yaxis={
            "automargin": True,
            "type": "category",
            "categoryorder": "array",
            "categoryarray": [text(name) for name, _ in reversed(rows)],
        },
        height=180 + 34 * len(rows),
    )
    note = "Bars are confidence intervals. The table below says what could have been seen."
    return [Figure("effects", title, figure, note)]


def _arms(id_: str, cell: CellResult, metric: str, arms: Mapping[str, tuple[float, ...]]) -> Figure:
    figure = go.Figure()
    rows = []
    for arm, values in arms.items():
        if not values:
            continue
        median = float(np.median(values))
        name = text(arm)
        figure.add_scatter(
            x=[name] * len(values), y=list(values), name=name, mode="markers", showlegend=False
        )
        figure.add_scatter(
            x=[name],
            y=[median],
            name=f"median {name}",
            mode="markers",
            marker={"symbol": "line-ew-open", "size": 40},
            showlegend=False,
        )
        rows.append((arm, str(len(values)), f"{median:.6g}"))
    figure.update_layout(yaxis={"title": {"text": text(metric)}}, xaxis={"type": "category"})
    header = ("kernel", "fresh guests", "median")
    return Figure(id_, f"{metric}: {cell.key}", figure, "", header, tuple(rows))


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
