# SPDX-License-Identifier: MIT
"""Host stamps on the guest's time axis, and how far off they may be."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from harness.base.status import PreconditionError


@dataclass(frozen=True)
class ClockPoint:
    """Both clocks at one moment: host and guest CLOCK_MONOTONIC, known to within ±error_ns."""

    host_ns: int
    guest_ns: int
    error_ns: int


@dataclass(frozen=True)
class ClockRelation:
    """Both clocks over a run: straight lines between the points, their slope beyond."""

    points: tuple[ClockPoint, ...]

    @property
    def error_ns(self) -> int:
        """The worst error of a point. Between points a clock that speeds up and slows down (a
        loaded host under TCG, the icount clock) may be off by more."""
        return max(point.error_ns for point in self.points)

    @property
    def drift_ns(self) -> int:
        """How much guest minus host has changed from the first point to the last."""
        first, last = self.points[0], self.points[-1]
        return (last.guest_ns - last.host_ns) - (first.guest_ns - first.host_ns)

    def guest_ns(self, host_ns: int) -> int:
        """The guest's clock at a moment of the host's."""
        first, last = self.points[0], self.points[-1]
        if host_ns <= first.host_ns:
            return first.guest_ns + host_ns - first.host_ns
        if host_ns >= last.host_ns:
            return last.guest_ns + host_ns - last.host_ns
        # Differences are small enough for floats to hold them exactly; the stamps are not.
        hosts = [point.host_ns - first.host_ns for point in self.points]
        guests = [point.guest_ns - first.guest_ns for point in self.points]
        return first.guest_ns + round(float(np.interp(host_ns - first.host_ns, hosts, guests)))


def relation(points: Sequence[ClockPoint]) -> ClockRelation:
    """Raises PreconditionError without points, or where they do not go forward."""
    ordered = sorted(points, key=lambda point: point.host_ns)
    if not ordered:
        raise PreconditionError("the clocks of guest and host were never compared")
    if any(b.guest_ns < a.guest_ns for a, b in itertools.pairwise(ordered)):
        raise PreconditionError("the guest's clock went backwards between two comparisons")
    return ClockRelation(tuple(ordered))
