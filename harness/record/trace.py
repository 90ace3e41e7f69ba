# SPDX-License-Identifier: MIT
"""Accept events from tracefs text: one per contiguous range, `first` on the first of a call. IRQs
stay off over a call, so the ranges of one call are adjacent in their CPU's buffer."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from harness.base.status import PreconditionError
from harness.base.units import GIB, UNIT_SIZE

# Format: kernel/trace/trace_output.c, trace_print_context(), 6.12 and 7.3. The comm may hold
# anything, even what looks like a pid, so the line is anchored on what follows it.
_EVENT = re.compile(
    r"\s*(?P<comm>.{1,16})-(?P<pid>\d{1,10})\s+(?:\(\s*[\d-]+\)\s+)?\[(?P<cpu>\d{3,4})\]\s+\S+\s+"
    r"(?P<seconds>\d{1,10})\.(?P<micros>\d{6}): accept_memory: "
    r"start=0x(?P<start>[0-9a-f]{1,16}) end=0x(?P<end>[0-9a-f]{1,16}) units=(?P<units>\d{1,10}) "
    r"first=(?P<first>[01]) duration_ns=(?P<duration_ns>\d{1,19}) wait_ns=(?P<wait_ns>\d{1,19}) "
    r"irqs_off=(?P<irqs_off>[01]) caller=(?P<caller>\S{1,200})"
)
_NUMBERS = ("cpu", "pid", "units", "duration_ns", "wait_ns")


@dataclass(frozen=True)
class AcceptEvent:
    """One platform accept. Addresses are guest-physical bytes, times nanoseconds."""

    time_ns: int
    cpu: int
    pid: int
    comm: str
    start: int
    end: int
    units: int
    first: bool
    duration_ns: int
    wait_ns: int
    irqs_off: bool
    caller: str


def parse_events(lines: Iterable[str]) -> Iterator[AcceptEvent]:
    """The accept events among `lines` of a tracefs `trace` file, in file order. Raises
    PreconditionError for one that is cut off or contradicts itself: a trace is believed whole or
    not at all."""
    for line in lines:
        if ": accept_memory:" not in line or line.startswith("#"):
            continue
        match = _EVENT.match(line)
        if not match:
            raise PreconditionError(f"unreadable accept event in the trace: {line[:300]!r}")
        start, end = int(match["start"], 16), int(match["end"], 16)
        units = int(match["units"])
        if end < start or end - start != units * UNIT_SIZE:
            raise PreconditionError(
                f"an accept event contradicts itself: {units} units from {start:#x} to {end:#x}"
            )
        numbers = {name: int(match[name]) for name in _NUMBERS}
        yield AcceptEvent(
            time_ns=int(match["seconds"]) * 10**9 + int(match["micros"]) * 1000,
            comm=match["comm"].strip(),
            start=start,
            end=end,
            first=match["first"] == "1",
            irqs_off=match["irqs_off"] == "1",
            caller=match["caller"],
            **numbers,
        )


_LOSSES = ("overrun", "commit overrun", "dropped events")


def lost_events(stats: str) -> int:
    """Events lost, from one tracefs per_cpu/cpu*/stats text (ring_buffer counters, 6.12). Raises
    PreconditionError where a counter is missing: unknown losses are not zero losses."""
    lost = 0
    for name in _LOSSES:
        match = re.search(rf"^{name}: (\d{{1,19}})$", stats, re.MULTILINE)
        if not match:
            raise PreconditionError(f"the trace buffer's statistics have no {name!r}")
        lost += int(match[1])
    return lost


PERCENTS = (50, 90, 99, 99.9, 99.99)


@dataclass(frozen=True)
class Latency:
    """A distribution in nanoseconds."""

    count: int
    p50_ns: float
    p90_ns: float
    p99_ns: float
    p999_ns: float
    p9999_ns: float
    max_ns: float
    total_ns: float


def latency(values_ns: npt.ArrayLike) -> Latency | None:
    """Percentiles of `values_ns`; None where there are none."""
    array = np.asarray(values_ns, dtype=np.float64)
    if array.size == 0:
        return None
    return latency_of(
        int(array.size), np.percentile(array, PERCENTS), float(array.max()), float(array.sum())
    )


def latency_of(count: int, percentiles: npt.ArrayLike, max_ns: float, total_ns: float) -> Latency:
    """From `percentiles` at PERCENTS."""
    p50, p90, p99, p999, p9999 = (float(value) for value in np.asarray(percentiles))
    return Latency(count, p50, p90, p99, p999, p9999, max_ns, total_ns)


def gib_per_s(units: int, ns: int) -> float | None:
    """GiB per second of `units` in `ns`; None where it took no time."""
    return units * UNIT_SIZE / GIB / (ns / 1e9) if ns > 0 else None


@dataclass(frozen=True)
class AcceptSummary:
    """The figures of events. A call is one accept_memory(), an event one range of it."""

    calls: int
    events: int
    units: int
    bytes_accepted: int
    accept: Latency | None
    """Per call, time in the platform's accept."""
    wait: Latency | None
    """Per call, time spent for another CPU's overlapping range."""
    gib_per_s: float | None
    """GiB accepted per second of accept time, over all CPUs."""
