# SPDX-License-Identifier: MIT
"""Where the level of a series of runs changed, and by how much.

The segmentation is PELT on the mean (Killick, Fearnhead and Eckley 2012, as in `ruptures`), in
units of the series' own noise, which is taken from successive differences so that a step does not
count as noise. Each change must also hold in a rank test of the segments beside it: one outlier is
no change.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import ruptures
import scipy

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
    """The changes of level in `values`, in order. Needs three values on each side of a change."""
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
