# SPDX-License-Identifier: MIT
"""What a night measured: each comparison with its interval, and the cost of each kernel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go

from harness.report.html.figure import Figure, text
from harness.report.night import Cell


def cost_figures(cells: Sequence[Cell]) -> list[Figure]:
    """Effects with their intervals over all comparisons, then each metric's values by kernel."""
    found = [_effects(cells)] if any(cell.compared for cell in cells) else []
    for cell in cells:
        for metric, arms in cell.values.items():
            if any(arms.values()):
                found.append(_arms(f"cost-{len(found)}", cell, metric, arms))
    return found


def _effects(cells: Sequence[Cell]) -> Figure:
    rows = [(cell, c) for cell in cells for c in cell.compared if c.effect is not None]
    figure = go.Figure()
    for verdict in dict.fromkeys(c.verdict for _, c in rows):
        mine = [(cell, c) for cell, c in rows if c.verdict == verdict]
        effects = np.array([100 * (c.effect or 0) for _, c in mine])
        high = np.array([100 * (c.high if c.high is not None else c.effect or 0) for _, c in mine])
        low = np.array([100 * (c.low if c.low is not None else c.effect or 0) for _, c in mine])
        figure.add_scatter(
            x=effects,
            y=[text(f"{cell.key}: {c.metric}") for cell, c in mine],
            mode="markers",
            marker={"size": 9},
            name=text(verdict),
            error_x={"array": high - effects, "arrayminus": effects - low},
        )
    figure.add_vline(x=0, line={"width": 1})
    figure.update_layout(
        xaxis={"title": {"text": "change against base, %"}},
        yaxis={"automargin": True, "autorange": "reversed", "type": "category"},
        height=180 + 34 * len(rows),
    )
    note = "Bars are confidence intervals. The table of cells below says what could have been seen."
    return Figure("effects", "patched against base", figure, note)


def _arms(id_: str, cell: Cell, metric: str, arms: Mapping[str, tuple[float, ...]]) -> Figure:
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
