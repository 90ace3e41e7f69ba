# SPDX-License-Identifier: MIT
"""One metric over time: runs of the same configuration, in order, whatever kernel they ran, and
where its level changed."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import ruptures
import scipy

from harness.base.units import format_size
from harness.compare.index import Point, Row

_MIN_SEGMENT = 3
"""Runs on each side of a change."""
_PENALTY = 3.0
"""Times log(n), per change: above BIC's 2 for a mean and a position, for fewer false alarms."""
_ALPHA = 0.01
_EXACT = 1e-9
"""Least noise, relative to the level: a series of exact figures has none of its own."""


@dataclass(frozen=True)
class ChangePoint:
    """The level is another one from the run at `index` on."""

    index: int
    before: float
    """Median of the segment that ends before it."""
    after: float
    """Median of the segment that it begins."""
    p_value: float
    """Mann-Whitney U between the two segments, two-sided; not corrected for having searched."""

    @property
    def relative(self) -> float | None:
        """(after - before) / before; None from a level of zero."""
        return (self.after - self.before) / self.before if self.before else None


def change_points(values: Sequence[float]) -> tuple[ChangePoint, ...]:
    """The changes of level in `values`, in order. Needs three values on each side of a change.

    The segmentation is PELT on the mean (Killick, Fearnhead and Eckley 2012, as in `ruptures`), in
    units of the series' own noise, which is taken from successive differences so that a step does
    not count as noise. Each change must also hold in a rank test of the segments beside it: one
    outlier is no change.
    """
    series = np.asarray(values, dtype=np.float64)
    if len(series) < 2 * _MIN_SEGMENT:
        return ()
    noise = float(scipy.stats.median_abs_deviation(np.diff(series), scale="normal")) / np.sqrt(2)
    noise = max(noise, _EXACT * float(np.abs(np.median(series))), np.finfo(float).tiny)
    scaled = ((series - np.median(series)) / noise).clip(-1e6, 1e6)
    found = ruptures.KernelCPD(kernel="linear", min_size=_MIN_SEGMENT).fit(scaled.reshape(-1, 1))
    changes = []
    start = 0
    for index, end in itertools.pairwise(found.predict(pen=_PENALTY * np.log(len(series)))):
        before, after = series[start:index], series[index:end]
        p_value = float(scipy.stats.mannwhitneyu(before, after).pvalue)
        # Three against three cannot reach _ALPHA; there, complete separation has to do.
        least = float(
            scipy.stats.mannwhitneyu(range(len(before)), range(99, 99 + len(after))).pvalue
        )
        if p_value <= max(_ALPHA, least):
            changes.append(
                ChangePoint(int(index), float(np.median(before)), float(np.median(after)), p_value)
            )
            start = index
    return tuple(changes)


@dataclass(frozen=True)
class MetricHistory:
    """Points that may be compared with each other, oldest first."""

    metric: str
    configuration: str
    points: tuple[Point, ...]
    changes: tuple[ChangePoint, ...]

    @property
    def values(self) -> list[float]:
        return [point.value for point in self.points]


def configuration(row: Row) -> str:
    """What must be equal for two runs to be points of one series; the kernel may differ."""
    size = format_size(row.memory_bytes) if row.memory_bytes else "?"
    words = [row.target, row.workload or "no workload", size, f"{row.vcpus} vCPUs", row.accept]
    words += [row.accel, f"clock {row.clock}", f"cost {row.cost or 'none'}"]
    return ", ".join(word for word in words if word)


def series_of(metric: str, points: Sequence[Point]) -> list[MetricHistory]:
    """The `points` of `metric` by configuration, longest first, with their changes of level."""
    groups: dict[str, list[Point]] = {}
    for point in points:
        groups.setdefault(configuration(point.row), []).append(point)
    return [
        MetricHistory(metric, name, tuple(group), change_points([point.value for point in group]))
        for name, group in sorted(groups.items(), key=lambda item: (-len(item[1]), item[0]))
    ]
