# SPDX-License-Identifier: MIT
"""The figures of a run by name, for history, exports, reports and docs/metrics.md: one number of
one run (one fresh guest) each, or nothing where the run has no such number."""

import enum
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from harness.analysis import cost
from harness.base.status import UsageError
from harness.base.units import PAGE_SIZE, PAGES_PER_UNIT, UNIT_SIZE, format_ns
from harness.record.view import RunView, number

_Value = Callable[[RunView], float | None]


class Better(enum.StrEnum):
    """In which direction a change is good."""

    LOWER = "lower"
    HIGHER = "higher"
    NEITHER = "neither"


@dataclass(frozen=True)
class Metric:
    name: str
    """Stage or subject, a dot, the quantity with its unit as suffix."""
    unit: str
    meaning: str
    source: str
    """Where the number comes from."""
    value: _Value
    better: Better = Better.LOWER

    def show(self, value: float) -> str:
        """`value` as people read it."""
        if self.unit == "ns":
            return format_ns(value)
        if value == int(value):
            return f"{int(value):,} {self.unit}".rstrip()
        return f"{value:.4g} {self.unit}".rstrip()


def _at(*keys: str) -> _Value:
    return lambda run: number(run.record, *keys)


def _workload(name: str) -> _Value:
    return lambda run: number(run.workload, name)


def _stage(stage: str) -> _Value:
    def value(run: RunView) -> float | None:
        spawn, reached = (number(run.record, "boot", "stages", one) for one in ("spawn", stage))
        if run.get("boot", "stages", "restored") is not None:
            return None  # it has not booted: its stages tell how long restoring takes
        return None if spawn is None or reached is None else reached - spawn

    return value


def _unaccepted_at_init(run: RunView) -> float | None:
    pages = number(run.record, "boot", "init", "nr_unaccepted_pages")
    return None if pages is None or pages < 0 else pages * PAGE_SIZE


def _accepted_by_workload(run: RunView) -> float | None:
    before, after = (
        number(run.record, reading, "unaccepted_pages")
        for reading in ("counters_before", "counters_after")
    )
    if before is None or after is None or min(before, after) < 0:
        return None
    return (before - after) * PAGE_SIZE


def _touch_bytes_per_s(run: RunView) -> float | None:
    touched = number(run.workload, "touched_bytes")
    elapsed = number(run.workload, "elapsed_ns")
    return touched / (elapsed / 1e9) if touched and elapsed else None


_RECORD = "run.json, boot.stages: host CLOCK_MONOTONIC"
_TRACE = "trace event unaccepted_memory:accept_memory"
_EMULATION = "debugfs unaccepted_emulation/stats after the workload"
_HIGH, _NEITHER = Better.HIGHER, Better.NEITHER


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
                f"{words}: {what}, since tracing began in early boot",
                _TRACE,
                _at("accepts", kind, figure),
            )


_ICOUNT = "the icount clock, under which a nanosecond is one executed instruction"
_COSTS = (
    ("in the platform's accept, per MiB accepted", cost.per_accepted_mib),
    ("in the platform's accept, per accept_memory() call", cost.per_call),
    (
        "waiting for another CPU's overlapping range, per accept_memory() call",
        cost.waiting_per_call,
    ),
    ("of the whole workload, per page of 4 KiB it made resident", cost.per_touched_page),
    ("of the whole workload", cost.workload),
)


def _cost_metrics() -> Iterator[Metric]:
    for meaning, value in _COSTS:
        unit = "instructions/MiB" if value is cost.per_accepted_mib else "instructions"
        yield Metric(f"cost.{value.__name__}", unit, meaning, _ICOUNT, value)


METRICS: tuple[Metric, ...] = (
    Metric(
        "boot.init_ns",
        "ns",
        "from QEMU's spawn to the guest's first userspace instruction being heard of",
        _RECORD,
        _stage("init"),
    ),
    Metric(
        "boot.first_command_ns",
        "ns",
        "from QEMU's spawn to the end of the first command over SSH",
        _RECORD,
        _stage("first_command"),
    ),
    Metric(
        "boot.unaccepted_bytes",
        "bytes",
        "memory still unaccepted at the first userspace instruction",
        "/proc/vmstat nr_unaccepted, read by PID 1",
        _unaccepted_at_init,
        _NEITHER,
    ),
    Metric(
        "boot.accepted_units",
        "units",
        f"units of {UNIT_SIZE >> 20} MiB accepted before PID 1 was started",
        _EMULATION,
        _at("counters_after", "emulation", "units_before_init"),
    ),
    Metric(
        "accept.calls",
        "calls",
        "accept_memory() calls since tracing began in early boot",
        _TRACE,
        _at("accepts", "calls"),
        _NEITHER,
    ),
    Metric(
        "accept.units",
        "units",
        f"units of {UNIT_SIZE >> 20} MiB accepted by those calls",
        _TRACE,
        _at("accepts", "units"),
        _NEITHER,
    ),
    *_latency_metrics(),
    Metric(
        "accept.gib_per_s",
        "GiB/s",
        "accepted per second of accept time, summed over CPUs",
        _TRACE,
        _at("accepts", "gib_per_s"),
        _HIGH,
    ),
    Metric(
        "accept.backend_ns",
        "ns",
        "time spent in the emulated platform's back end since power-on",
        _EMULATION,
        _at("counters_after", "emulation", "accept_ns"),
    ),
    Metric(
        "workload.accepted_bytes",
        "bytes",
        "drop of nr_unaccepted from before the workload to after it",
        "/proc/vmstat nr_unaccepted",
        _accepted_by_workload,
        _NEITHER,
    ),
    Metric(
        "workload.elapsed_ns",
        "ns",
        "what the workload took by the guest's CLOCK_MONOTONIC",
        "workload.json",
        _workload("elapsed_ns"),
    ),
    Metric(
        "workload.touched_bytes",
        "bytes",
        "memory the workload says it made resident",
        "workload.json",
        _workload("touched_bytes"),
        _NEITHER,
    ),
    Metric(
        "workload.bytes_per_s",
        "bytes/s",
        "touched_bytes over elapsed_ns",
        "workload.json",
        _touch_bytes_per_s,
        _HIGH,
    ),
    Metric(
        "pending.units",
        "units",
        f"units of {PAGES_PER_UNIT} pages still pending in the kernel's table at the end",
        _EMULATION,
        _at("counters_after", "emulation", "table_pending"),
        _NEITHER,
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


def figures_of(run: RunView) -> list[tuple[Metric, float]]:
    """Every metric that `run` has, with its value."""
    values = ((metric, metric.value(run)) for metric in METRICS)
    return [(metric, value) for metric, value in values if value is not None]


def metrics_of(run: RunView) -> dict[str, float]:
    """The same by name."""
    return {metric.name: value for metric, value in figures_of(run)}


def properties(run: RunView) -> list[tuple[str, str]]:
    """A run's inputs and figures as names and values, for JUnit XML."""
    facts = [
        ("run", run.id),
        ("target", run.text("spec", "target")),
        ("kernel", run.text("kernel", "release")),
        ("kernel_digest", run.text("kernel", "digest")),
        ("accel", run.text("accel", "name")),
        ("qemu", run.text("qemu", "version")),
        ("accept", run.text("spec", "accept")),
        ("memory_bytes", run.text("spec", "memory")),
        ("vcpus", run.text("spec", "vcpus")),
        ("cost_model", run.text("cost_model")),
        ("workload", run.workload_name),
    ]
    facts += [(metric.name, f"{value:.17g}") for metric, value in figures_of(run)]
    return [(name, value) for name, value in facts if value]
