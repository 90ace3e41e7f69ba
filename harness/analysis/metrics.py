# SPDX-License-Identifier: MIT
"""The figures of a run by name: what history, exports, reports and the metric reference agree on.

A metric is one number of one run (one fresh guest), or nothing where the run has no such number.
docs/metrics.md is generated from this table.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from harness.analysis import cost
from harness.base.status import UsageError
from harness.base.units import PAGE_SIZE, PAGES_PER_UNIT, UNIT_SIZE, format_ns


class Better(enum.StrEnum):
    """In which direction a change is good."""

    LOWER = "lower"
    HIGHER = "higher"
    NEITHER = "neither"


class Recorded(Protocol):
    """A run as far as metrics need it: run.json and workload.json."""

    @property
    def record(self) -> Mapping[str, Any]:
        """run.json."""

    @property
    def workload(self) -> Mapping[str, Any] | None:
        """workload.json."""


@dataclass(frozen=True)
class Metric:
    """One figure of a run."""

    name: str
    """Stage or subject, a dot, the quantity with its unit as suffix."""
    unit: str
    better: Better
    meaning: str
    source: str
    """Where the number comes from."""
    value: Callable[[Recorded], float | None]

    def show(self, value: float) -> str:
        """`value` as people read it."""
        if self.unit == "ns":
            return format_ns(value)
        if value == int(value):
            return f"{int(value):,} {self.unit}".rstrip()
        return f"{value:.4g} {self.unit}".rstrip()


def _number(value: object, scale: float = 1.0) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value) * scale
    except OverflowError:  # JSON knows integers of any length
        return None
    return number if math.isfinite(number) else None


def _dig(tree: Any, keys: tuple[str, ...]) -> Any:
    for key in keys:
        tree = tree.get(key) if isinstance(tree, Mapping) else None
    return tree


def _at(*keys: str, scale: float = 1.0) -> Callable[[Recorded], float | None]:
    return lambda run: _number(_dig(run.record, keys), scale)


def _workload(*keys: str) -> Callable[[Recorded], float | None]:
    return lambda run: _number(_dig(run.workload, keys))


def _counted(*keys: str, scale: float = 1.0) -> Callable[[Recorded], float | None]:
    """A counter that is -1 where the kernel has none."""

    def value(run: Recorded) -> float | None:
        number = _number(_dig(run.record, keys))
        return None if number is None or number < 0 else number * scale

    return value


def _stage(stage: str) -> Callable[[Recorded], float | None]:
    def value(run: Recorded) -> float | None:
        spawn = _number(_dig(run.record, ("boot", "stages", "spawn")))
        reached = _number(_dig(run.record, ("boot", "stages", stage)))
        if _dig(run.record, ("boot", "stages", "restored")) is not None:
            return None  # it has not booted: its stages tell how long restoring takes
        return None if spawn is None or reached is None else reached - spawn

    return value


def _accepted_by_workload(run: Recorded) -> float | None:
    before = _number(_dig(run.record, ("counters_before", "unaccepted_pages")))
    after = _number(_dig(run.record, ("counters_after", "unaccepted_pages")))
    if before is None or after is None or min(before, after) < 0:
        return None
    return (before - after) * PAGE_SIZE


def _touch_bytes_per_s(run: Recorded) -> float | None:
    touched = _number(_dig(run.workload, ("touched_bytes",)))
    elapsed = _number(_dig(run.workload, ("elapsed_ns",)))
    return touched / (elapsed / 1e9) if touched and elapsed else None


_RECORD = "run.json, boot.stages: host CLOCK_MONOTONIC"
_TRACE = "trace event unaccepted_memory:accept_memory"
_EMULATION = "debugfs unaccepted_emulation/stats after the workload"
_LOW, _HIGH, _NEITHER = Better.LOWER, Better.HIGHER, Better.NEITHER


def _latency_metrics() -> Iterator[Metric]:
    for kind, what in (
        ("accept", "time in the platform's accept of one accept_memory() call"),
        ("wait", "time one accept_memory() call waited for another CPU's overlapping range"),
    ):
        for figure, words in (
            ("p50_ns", "median"),
            ("p99_ns", "99th percentile"),
            ("p999_ns", "99.9th percentile"),
            ("max_ns", "longest"),
            ("total_ns", "sum over all calls"),
        ):
            yield Metric(
                f"{kind}.{figure}",
                "ns",
                _LOW,
                f"{words}: {what}, since tracing began in early boot",
                _TRACE,
                _at("accepts", kind, figure),
            )


_ICOUNT = "the icount clock, under which a nanosecond is one executed instruction"


def _cost_metrics() -> Iterator[Metric]:
    for name, unit, meaning, value in (
        (
            "per_accepted_mib",
            "instructions/MiB",
            "in the platform's accept, per MiB accepted",
            lambda run: cost.instructions_per_accepted_mib(run.record),
        ),
        (
            "per_call",
            "instructions",
            "in the platform's accept, per accept_memory() call",
            lambda run: cost.instructions_per_call(run.record),
        ),
        (
            "waiting_per_call",
            "instructions",
            "waiting for another CPU's overlapping range, per accept_memory() call",
            lambda run: cost.waiting_per_call(run.record),
        ),
        (
            "per_touched_page",
            "instructions",
            "of the whole workload, per page of 4 KiB it made resident",
            lambda run: cost.instructions_per_touched_page(run.record, run.workload),
        ),
        (
            "workload",
            "instructions",
            "of the whole workload",
            lambda run: cost.instructions_of_workload(run.record, run.workload),
        ),
    ):
        yield Metric(f"cost.{name}", unit, _LOW, meaning, _ICOUNT, value)


METRICS: tuple[Metric, ...] = (
    Metric(
        "boot.init_ns",
        "ns",
        _LOW,
        "from QEMU's spawn to the guest's first userspace instruction being heard of",
        _RECORD,
        _stage("init"),
    ),
    Metric(
        "boot.first_command_ns",
        "ns",
        _LOW,
        "from QEMU's spawn to the end of the first command over SSH",
        _RECORD,
        _stage("first_command"),
    ),
    Metric(
        "boot.unaccepted_bytes",
        "bytes",
        _NEITHER,
        "memory still unaccepted at the first userspace instruction",
        "/proc/vmstat nr_unaccepted, read by PID 1",
        _counted("boot", "init", "nr_unaccepted_pages", scale=PAGE_SIZE),
    ),
    Metric(
        "boot.accepted_units",
        "units",
        _LOW,
        f"units of {UNIT_SIZE >> 20} MiB accepted before PID 1 was started",
        _EMULATION,
        _at("counters_after", "emulation", "units_before_init"),
    ),
    Metric(
        "accept.calls",
        "calls",
        _NEITHER,
        "accept_memory() calls since tracing began in early boot",
        _TRACE,
        _at("accepts", "calls"),
    ),
    Metric(
        "accept.units",
        "units",
        _NEITHER,
        f"units of {UNIT_SIZE >> 20} MiB accepted by those calls",
        _TRACE,
        _at("accepts", "units"),
    ),
    *_latency_metrics(),
    Metric(
        "accept.gib_per_s",
        "GiB/s",
        _HIGH,
        "accepted per second of accept time, summed over CPUs",
        _TRACE,
        _at("accepts", "gib_per_s"),
    ),
    Metric(
        "accept.backend_ns",
        "ns",
        _LOW,
        "time spent in the emulated platform's back end since power-on",
        _EMULATION,
        _at("counters_after", "emulation", "accept_ns"),
    ),
    Metric(
        "workload.accepted_bytes",
        "bytes",
        _NEITHER,
        "drop of nr_unaccepted from before the workload to after it",
        "/proc/vmstat nr_unaccepted",
        _accepted_by_workload,
    ),
    Metric(
        "workload.elapsed_ns",
        "ns",
        _LOW,
        "what the workload took by the guest's CLOCK_MONOTONIC",
        "workload.json",
        _workload("elapsed_ns"),
    ),
    Metric(
        "workload.touched_bytes",
        "bytes",
        _NEITHER,
        "memory the workload says it made resident",
        "workload.json",
        _workload("touched_bytes"),
    ),
    Metric(
        "workload.bytes_per_s",
        "bytes/s",
        _HIGH,
        "touched_bytes over elapsed_ns",
        "workload.json",
        _touch_bytes_per_s,
    ),
    Metric(
        "pending.units",
        "units",
        _NEITHER,
        f"units of {PAGES_PER_UNIT} pages still pending in the kernel's table at the end",
        _EMULATION,
        _at("counters_after", "emulation", "table_pending"),
    ),
    *_cost_metrics(),
)

_BY_NAME = {metric.name: metric for metric in METRICS}


def metric_named(name: str) -> Metric:
    """The metric called `name`. Raises UsageError listing the others."""
    try:
        return _BY_NAME[name]
    except KeyError:
        raise UsageError(
            f"unknown metric {name!r}", hint=f"use one of {', '.join(_BY_NAME)}"
        ) from None


def metrics_of(run: Recorded) -> dict[str, float]:
    """Every metric that `run` has."""
    values = ((metric.name, metric.value(run)) for metric in METRICS)
    return {name: value for name, value in values if value is not None}
