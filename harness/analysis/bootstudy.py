# SPDX-License-Identifier: MIT
"""Boots of many sizes, lazy and eager, as one table: what D. Hansen asked on linux-mm in 2021. Each
boot is a guest of its own, and the guests of a cell are its sample."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy

from harness.analysis.analyse import analyse
from harness.base.spec import AcceptMode
from harness.base.status import PreconditionError, Status
from harness.base.units import GIB, KIB, PAGE_SIZE, UNIT_SIZE
from harness.record.run import load_record
from harness.record.trace import gib_per_s

CONFIDENCE = 0.95


@dataclass(frozen=True)
class BootPoint:
    run: str
    status: Status
    memory_bytes: int
    vcpus: int
    accept: str
    clock: str
    init_ns: int
    """From QEMU's start to the first userspace instruction, host clock; with the icount clock the
    guest's own, from the kernel's start: instructions."""
    command_ns: int
    """To the end of the first command over SSH, host clock."""
    unaccepted_at_init_bytes: int
    accepted_at_init_bytes: int
    gib_per_s: float | None
    """GiB accepted per second of accept time on one CPU, over the whole boot."""


@dataclass(frozen=True)
class MeanInterval:
    """A mean with its confidence interval (Student's t); a single boot has none."""

    count: int
    mean: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class StudyRow:
    memory_bytes: int
    vcpus: int
    lazy_init_ns: MeanInterval
    eager_init_ns: MeanInterval
    lazy_command_ns: MeanInterval
    eager_command_ns: MeanInterval
    unaccepted_at_init_bytes: MeanInterval
    """Lazy; so are the figures below."""
    accepted_at_init_bytes: MeanInterval
    gib_per_s: MeanInterval | None
    could_have_bytes: MeanInterval | None
    """What one CPU could have accepted by init at that speed, had it done nothing else; at most
    all there is."""

    @property
    def eager_over_lazy(self) -> float:
        """How many times longer userspace takes to start when all is accepted first."""
        return self.eager_init_ns.mean / self.lazy_init_ns.mean


def interval(values: Sequence[float]) -> MeanInterval:
    """Mean and 95 % interval of `values`. Raises PreconditionError if there are none."""
    if not values:
        raise PreconditionError("no boots to average over")
    mean = float(np.mean(values))
    if len(values) < 2:
        return MeanInterval(1, mean, None, None)
    error = float(scipy.stats.sem(values))
    if error == 0:
        return MeanInterval(len(values), mean, mean, mean)
    low, high = scipy.stats.t.interval(CONFIDENCE, len(values) - 1, loc=mean, scale=error)
    return MeanInterval(len(values), mean, float(low), float(high))


def boot_point(run_dir: Path) -> BootPoint:
    """One boot's figures from its run directory. Raises PreconditionError where one is missing."""
    record = load_record(run_dir)
    spec = record.spec
    found = analyse(run_dir)
    boot, after = found.boot, found.after
    if boot.init_ns is None or boot.first_command_ns is None or boot.unaccepted_at_init_pages < 0:
        raise PreconditionError(f"{run_dir} does not say when userspace began, or with what")
    unaccepted = boot.unaccepted_at_init_pages * PAGE_SIZE
    if after.emulation:
        accepted = after.stat("units_before_init") * UNIT_SIZE
        rate = gib_per_s(after.stat("accept_units"), after.stat("accept_ns"))
    else:
        accepted = max(0, after.mem_total_kib * KIB - unaccepted)
        rate = found.accepts.summary.gib_per_s if found.accepts else None
    init_ns = record.boot.init.monotonic_ns if spec.clock == "icount" else boot.init_ns
    return BootPoint(
        run=run_dir.name,
        status=found.status,
        memory_bytes=spec.memory,
        vcpus=spec.vcpus,
        accept=spec.accept,
        clock=spec.clock,
        init_ns=init_ns,
        command_ns=boot.first_command_ns,
        unaccepted_at_init_bytes=unaccepted,
        accepted_at_init_bytes=accepted,
        gib_per_s=rate,
    )


def study(points: Iterable[BootPoint]) -> tuple[StudyRow, ...]:
    """One row for each size that was booted both ways, ascending."""
    cells: dict[tuple[int, int, str], list[BootPoint]] = {}
    for point in points:
        cells.setdefault((point.vcpus, point.memory_bytes, point.accept), []).append(point)
    rows = []
    for vcpus, memory in sorted({key[:2] for key in cells}):
        lazy = cells.get((vcpus, memory, AcceptMode.LAZY.value))
        eager = cells.get((vcpus, memory, AcceptMode.EAGER.value))
        if lazy and eager:
            rows.append(_row(lazy, eager))
    return tuple(rows)


def _row(lazy: Sequence[BootPoint], eager: Sequence[BootPoint]) -> StudyRow:
    def over(points: Sequence[BootPoint], value: Callable[[BootPoint], Any]) -> MeanInterval:
        return interval([float(value(point)) for point in points])

    rated = [point for point in lazy if point.gib_per_s]
    return StudyRow(
        memory_bytes=lazy[0].memory_bytes,
        vcpus=lazy[0].vcpus,
        lazy_init_ns=over(lazy, lambda p: p.init_ns),
        eager_init_ns=over(eager, lambda p: p.init_ns),
        lazy_command_ns=over(lazy, lambda p: p.command_ns),
        eager_command_ns=over(eager, lambda p: p.command_ns),
        unaccepted_at_init_bytes=over(lazy, lambda p: p.unaccepted_at_init_bytes),
        accepted_at_init_bytes=over(lazy, lambda p: p.accepted_at_init_bytes),
        gib_per_s=over(rated, lambda p: p.gib_per_s) if rated else None,
        could_have_bytes=over(rated, _could_have) if rated else None,
    )


def _could_have(point: BootPoint) -> float:
    everything = point.unaccepted_at_init_bytes + point.accepted_at_init_bytes
    return min(everything, (point.gib_per_s or 0.0) * GIB * point.init_ns / 1e9)
