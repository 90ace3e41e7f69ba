# SPDX-License-Identifier: MIT
"""The plots of one run, from its run directory."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go

from harness.analysis.analyse import Analysis
from harness.analysis.timeline import UNACCEPTED
from harness.base.units import GIB, PAGE_SIZE, UNIT_SIZE
from harness.record.columns import Array
from harness.record.events import FILE, Events
from harness.record.samples import read_samples
from harness.record.view import RunView
from harness.report.html.figure import (
    CLOUD,
    Figure,
    bars,
    latency_figures,
    quantiles,
    seconds_axis,
    thin,
)

_STAGES = {
    "kernel_start": "first console byte",
    "init": "init",
    "ready": "ready",
    "first_command": "first command",
}
_MAX_VALUES = 20_000_000


@dataclass(frozen=True)
class Calls:
    """Every accept call of a run, by time."""

    time_ns: Array
    """When the call's last range had been accepted, guest CLOCK_MONOTONIC."""
    units: Array
    accept_ns: Array
    wait_ns: Array


def read_calls(view: RunView) -> Calls | None:
    """The calls of events.parquet; None where nothing was traced."""
    path = view.path / FILE
    if not path.exists():
        return None
    events = Events(path)
    if not events.rows or events.rows > _MAX_VALUES:
        return None
    names = ("call", "time_ns", "units", "duration_ns", "wait_ns")
    parts = list(events.batches(*names))
    whole = {name: np.concatenate([part[name] for part in parts]) for name in names}
    begins = np.flatnonzero(np.diff(whole["call"], prepend=whole["call"][0] - 1))
    time_ns = np.maximum.reduceat(whole["time_ns"], begins)
    sums = [
        np.add.reduceat(whole[name].astype(np.int64), begins)
        for name in ("units", "duration_ns", "wait_ns")
    ]
    order = np.argsort(time_ns, kind="stable")
    return Calls(time_ns[order], *(column[order] for column in sums))


def run_figures(
    view: RunView, analysis: Analysis, calls: Calls | None, points: int
) -> list[Figure]:
    """All plots of the run that there are data for; at most `points` points a curve."""
    found = [timeline(view, analysis, calls, points)]
    if calls is not None:
        found += latency_figures(
            f"{view.id}-latency",
            [("accepting", quantiles(calls.accept_ns)), ("waiting", quantiles(calls.wait_ns))],
        )
    if analysis.accepts and analysis.accepts.per_cpu:
        cpus = analysis.accepts.per_cpu
        found.append(
            bars(
                f"{view.id}-cpus",
                "acceptance on each CPU",
                [f"CPU {cpu.cpu}" for cpu in cpus],
                [
                    ("accepting", [cpu.accept_ns / 1e9 for cpu in cpus]),
                    ("waiting", [cpu.wait_ns / 1e9 for cpu in cpus]),
                ],
                "time, s",
            )
        )
    if analysis.stalls:
        stalls = analysis.stalls
        found.append(
            bars(
                f"{view.id}-stalls",
                "share of the workload's time that was acceptance",
                [_tail(stall.percent) for stall in stalls],
                [
                    ("accepting", [_share(s.accept_ns, s.total_ns) for s in stalls]),
                    ("waiting", [_share(s.wait_ns, s.total_ns) for s in stalls]),
                ],
                "% of the operations' time",
                note="Operations of the workload and accept calls joined by task and time.",
            )
        )
    return [figure for figure in found if figure is not None]


def overlay(named: Mapping[str, Calls]) -> list[Figure]:
    """The latency distributions of several runs over each other."""
    curves = [(name, quantiles(calls.accept_ns)) for name, calls in named.items()]
    return latency_figures("overlay", curves) if curves else []


def timeline(view: RunView, analysis: Analysis, calls: Calls | None, points: int) -> Figure | None:
    """Unaccepted memory over the guest's life, with accept calls and stages."""
    figure = go.Figure()
    notes = []
    samples = read_samples(view.path)
    if samples is not None and len(samples.values) and UNACCEPTED in samples.names:
        x = samples.column("monotonic_ns") / 1e9
        y = samples.column(UNACCEPTED) * PAGE_SIZE / GIB
        x, y, thinned = thin(x, y.astype(float), points)
        figure.add_scatter(x=x, y=y, name="nr_unaccepted", mode="lines", line={"shape": "hv"})
        notes += [f"{len(samples.values):,} samples drawn as {len(x):,} points"] * thinned
    if calls is not None:
        notes += _calls(figure, analysis, calls, points)
    if not figure.data:
        return None
    spent = [] if calls is None else [(calls.accept_ns + calls.wait_ns) / 1e9]
    _stages(figure, view, analysis)
    figure.update_layout(
        xaxis={"title": {"text": "guest CLOCK_MONOTONIC, s"}},
        yaxis={"title": {"text": "unaccepted, GiB"}, "rangemode": "tozero"},
        yaxis2=seconds_axis("accept call", *spent)
        | {"overlaying": "y", "side": "right", "showgrid": False},
    )
    note = "; ".join(notes) + "." if notes else ""
    return Figure(f"{view.id}-timeline", "unaccepted memory", figure, note)


def _calls(figure: go.Figure, analysis: Analysis, calls: Calls, points: int) -> list[str]:
    notes = []
    seconds = calls.time_ns / 1e9
    # Backwards from what the back end still had at the end: tracing began after some acceptance.
    left = analysis.after.emulation.get("table_pending")
    if isinstance(left, int) and not analysis.lost_events:
        after = np.cumsum(calls.units[::-1])[::-1] - calls.units
        pending = (after + left) * UNIT_SIZE / GIB
        x, y, thinned = thin(seconds, pending, points)
        figure.add_scatter(
            x=x, y=y, name="pending, by accept events", mode="lines", line={"shape": "hv"}
        )
        notes += [f"{len(seconds):,} steps drawn as {len(x):,} points"] * thinned
    spent = (calls.accept_ns + calls.wait_ns) / 1e9
    x, y, thinned = thin(seconds, spent, points // 2, CLOUD)
    figure.add_scatter(
        x=x,
        y=y,
        name="accept calls",
        mode="markers",
        yaxis="y2",
        marker={"size": 4, "opacity": 0.5},
        hovertemplate="%{x:.6f} s: %{y:.4s}s<extra>accept call with its wait</extra>",
    )
    if thinned:
        notes.append(
            f"of {len(seconds):,} accept calls the shortest and the longest of each of "
            f"{len(x) // 2:,} stretches are drawn"
        )
    return notes


def _stages(figure: go.Figure, view: RunView, analysis: Analysis) -> None:
    stages = view.get("boot", "stages") or {}
    if analysis.clocks is None:
        return
    for stage, words in _STAGES.items():
        if isinstance(stages.get(stage), int):
            at = analysis.clocks.guest_ns(stages[stage]) / 1e9
            label = {"text": words, "textangle": -90, "font": {"size": 10}}
            line = {"width": 1, "dash": "dot"}
            figure.add_vline(x=at, line=line, annotation=label, annotation_position="top left")
    for splat in analysis.splats:
        if splat.guest_ns is not None:
            figure.add_vline(x=splat.guest_ns / 1e9, line={"width": 2, "color": "#d33"})


def _tail(percent: float) -> str:
    return f"slowest {100 - percent:.4g} %" if percent else "all operations"


def _share(part: float, whole: float) -> float:
    return 100 * part / whole if whole else 0.0
