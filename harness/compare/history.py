# SPDX-License-Identifier: MIT
"""One metric over time: runs of the same configuration, in order, whatever kernel they ran."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harness.base.units import format_size
from harness.compare.changepoints import ChangePoint, change_points
from harness.compare.index import Point, Row


@dataclass(frozen=True)
class MetricHistory:
    """Points that may be compared with each other, oldest first."""

    metric: str
    configuration: str
    points: tuple[Point, ...]
    changes: tuple[ChangePoint, ...]

    @property
    def values(self) -> list[float]:
        """The values alone."""
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
