# SPDX-License-Identifier: MIT
"""Plots as plotly figures; colours are left to the page, which draws them light, dark and in
print."""

import html
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go
from tsdownsample import MinMaxDownsampler, MinMaxLTTBDownsampler

from harness.base.text import inert
from harness.base.units import format_ns
from harness.record.columns import Array

QUANTILE_POINTS = 800
LINE: Any = MinMaxLTTBDownsampler()  # type: ignore[no-untyped-call]
CLOUD: Any = MinMaxDownsampler()  # type: ignore[no-untyped-call]
_LEAST_NS = 1000.0
"""A log axis has no zero: what took less, a wait of nothing above all, is drawn here."""


@dataclass(frozen=True)
class Figure:
    id: str
    title: str
    figure: go.Figure
    note: str = ""
    """What the reader must know to read it right, e.g. that points were left out."""
    header: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    """The same as a table, for those who cannot see the plot."""


@dataclass(frozen=True)
class Quantiles:
    """A distribution, thinned to what a plot can show, each point exact."""

    share: Array
    """Of all values, those that do not exceed `value`."""
    value: Array


def text(words: str) -> str:
    """`words` for a plot: plotly draws some HTML, and these are none."""
    return html.escape(inert(words))


def quantiles(values: Array, points: int = QUANTILE_POINTS) -> Quantiles:
    """The values at up to `points` ranks, dense towards the largest, which is always among them;
    none is interpolated (numpy's "inverted_cdf")."""
    ordered = np.sort(values)
    count = len(ordered)
    tail = np.geomspace(1.0, 1.0 / max(count, 2), points // 2)
    shares = np.concatenate([np.linspace(1.0 / count, 1.0, points // 2), 1 - tail])
    ranks = np.unique(np.maximum(np.ceil(shares * count).astype(int), 1))
    return Quantiles(ranks / count, ordered[ranks - 1])


def thin(x: Array, y: Array, points: int, sampler: Any = LINE) -> tuple[Array, Array, bool]:
    """At most `points` of a curve, and whether any were left out. Of a LINE the shape is kept, of a
    CLOUD the least and the largest of each stretch."""
    if len(x) <= points:
        return x, y, False
    some = points // 2 * 2 if sampler is CLOUD else points
    keep = sampler.downsample(np.ascontiguousarray(x), np.ascontiguousarray(y), n_out=some)
    return x[keep], y[keep], True


def seconds_axis(title: str, *values: Array) -> dict[str, Any]:
    """A log axis of seconds over `values`, marked 20µs, 1ms: plotly's own marks between decades of
    a log axis are digits without a unit."""
    every = np.concatenate([one[one > 0] for one in values if len(one)] or [np.ones(1)])
    low, high = np.floor(np.log10(every.min())), np.ceil(np.log10(every.max()))
    steps = (1, 1.5, 2, 3, 5, 7) if high - low <= 2 else (1, 2, 5) if high - low <= 3 else (1,)
    ticks = [step * 10.0**decade for decade in np.arange(low, high + 1) for step in steps]
    return {
        "type": "log",
        "title": {"text": title},
        "tickvals": ticks,
        "ticktext": [format_ns(tick * 1e9).replace(" ", "") for tick in ticks],
    }


_WHAT = "time of an accept call"


def latency_figures(id_: str, named: Sequence[tuple[str, Quantiles]]) -> list[Figure]:
    """Percentiles over the tail, and the cumulative distribution, of several runs or arms."""
    tail, ecdf = go.Figure(), go.Figure()
    for name, q in named:
        style = {"name": text(name), "mode": "lines", "line": {"shape": "hv"}}
        value = np.maximum(q.value, _LEAST_NS) / 1e9
        beyond = np.maximum(1 - q.share, (1 - q.share[:-1]).min(initial=1.0) / 2)
        tail.add_scatter(
            x=beyond,
            y=value,
            customdata=q.share * 100,
            hovertemplate="%{customdata:.5g} % within %{y:.4s}s<extra>%{fullData.name}</extra>",
            **style,
        )
        ecdf.add_scatter(
            x=value,
            y=q.share * 100,
            hovertemplate="%{y:.5g} % within %{x:.4s}s<extra>%{fullData.name}</extra>",
            **style,
        )
    seconds = seconds_axis(_WHAT, *(np.maximum(q.value, _LEAST_NS) / 1e9 for _, q in named))
    ticks = [0.5, 0.1, 0.01, 0.001, 1e-4, 1e-5, 1e-6]
    tail.update_layout(
        xaxis={
            "type": "log",
            "autorange": "reversed",
            "title": {"text": "percentile"},
            "tickvals": ticks,
            "ticktext": [f"{100 * (1 - t):.6g} %" for t in ticks],
        },
        yaxis=seconds,
    )
    ecdf.update_layout(
        xaxis=seconds, yaxis={"title": {"text": "share of calls, %"}, "range": [0, 101]}
    )
    points = (50, 90, 99, 99.9, 99.99, 100)
    rows = tuple((name, *(f"{_at(q, p) / 1e6:.4g}" for p in points)) for name, q in named)
    header = ("", *(f"p{p:g}, ms" if p < 100 else "max, ms" for p in points))
    note = (
        f"Drawn through at most {QUANTILE_POINTS} values of each curve, none interpolated; "
        "what took less than 1µs, at 1µs."
    )
    return [
        Figure(f"{id_}-tail", f"{_WHAT}: percentiles", tail, note, header, rows),
        Figure(f"{id_}-ecdf", f"{_WHAT}: cumulative distribution", ecdf, note),
    ]


def _at(q: Quantiles, percent: float) -> float:
    at = int(np.searchsorted(q.share, percent / 100 - 1e-12))
    return float(q.value[min(at, len(q.value) - 1)])


def bars(
    id_: str,
    title: str,
    names: Sequence[str],
    parts: Sequence[tuple[str, Sequence[float]]],
    axis: str,
    note: str = "",
) -> Figure:
    """Stacked bars, one for each name."""
    figure = go.Figure()
    for part, values in parts:
        figure.add_bar(x=[text(n) for n in names], y=list(values), name=text(part))
    figure.update_layout(
        barmode="stack", yaxis={"title": {"text": axis}}, xaxis={"type": "category"}
    )
    rows = tuple(
        (name, *(f"{values[at]:.4g}" for _, values in parts)) for at, name in enumerate(names)
    )
    return Figure(id_, title, figure, note, ("", *(part for part, _ in parts)), rows)
