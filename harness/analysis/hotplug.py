# SPDX-License-Identifier: MIT
"""The steps of a run that plugged memory, and what the accept events say of each device."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from harness.base.reader import FileType, believing, parse_json
from harness.base.status import PreconditionError
from harness.base.units import UNIT_SIZE
from harness.record.clocks import ClockRelation
from harness.record.columns import Array


class HotplugStep(FileType, frozen=True):
    """One step as it went. Times are the host's CLOCK_MONOTONIC; clock_points of run.json put them
    on the guest's."""

    step: str
    """plug, unplug or resize."""
    device: str
    node: int
    address: int
    """Guest-physical, of the device."""
    size_bytes: int
    """Of the device when the step was over."""
    host_start_ns: int
    host_end_ns: int
    outcome: str
    """done, or why not."""

    @property
    def took_ns(self) -> int:
        """From the command to the guest's word."""
        return self.host_end_ns - self.host_start_ns


@dataclass(frozen=True)
class PlugFigures:
    """Hotplug's own metrics for one device that was plugged, or grew from nothing."""

    device: str
    size_bytes: int
    to_online_ns: int
    """device_add (or qom-set) to the guest's word, host clock. QEMU tells a new size of a
    virtio-mem device once a second at most."""
    to_first_accept_ns: int | None
    """device_add to the first accept of a unit of it; None: there was none."""
    accepted_in_add_units: int
    """Until the guest's word."""
    accepted_later_units: int
    """From then until the device was unplugged or changed, or the run ended."""


def read_steps(path: Path) -> tuple[HotplugStep, ...]:
    """The steps of a run, as harness/guest/hotplug.py wrote them. Raises PreconditionError."""
    try:
        lines = list(enumerate(path.read_text().splitlines(), 1))
        with believing():
            return tuple(parse_json(line, HotplugStep, f"{path}, line {n}") for n, line in lines)
    except (OSError, ValueError) as error:
        raise PreconditionError(f"{path} cannot be read as hotplug steps: {error}") from error


def plug_figures(
    steps: Iterable[HotplugStep], events: Iterable[Mapping[str, Array]], clocks: ClockRelation
) -> tuple[PlugFigures, ...]:
    """Figures for each step that gave the guest memory. `events` are batches of events.parquet with
    the columns EVENT_COLUMNS."""
    ordered = sorted(steps, key=lambda step: step.host_start_ns)
    spans = []
    for index, step in enumerate(ordered):
        if step.outcome == "done" and step.step in ("plug", "resize") and step.size_bytes:
            later = (s.host_start_ns for s in ordered[index + 1 :] if s.device == step.device)
            gone = next(later, None)
            spans.append(_Span(step, clocks, gone))
    for batch in events:
        for span in spans:
            span.add(batch)
    return tuple(span.figures() for span in spans)


EVENT_COLUMNS = ("time_ns", "start_phys", "end_phys")


class _Span:
    """The life of one device's memory, from the command that gave it on."""

    def __init__(self, step: HotplugStep, clocks: ClockRelation, gone_host_ns: int | None) -> None:
        self._step = step
        self._begun = clocks.guest_ns(step.host_start_ns)
        self._online = clocks.guest_ns(step.host_end_ns)
        self._gone = np.iinfo(np.int64).max
        if gone_host_ns is not None:
            self._gone = clocks.guest_ns(gone_host_ns)
        self._in_add = self._later = 0
        self._first: int | None = None

    def add(self, batch: Mapping[str, Array]) -> None:
        first = self._step.address
        last = first + self._step.size_bytes
        time_ns = batch["time_ns"]
        starts = np.maximum(batch["start_phys"].astype(np.int64), first)
        sizes = np.minimum(batch["end_phys"].astype(np.int64), last) - starts
        mine = (sizes > 0) & (time_ns >= self._begun) & (time_ns < self._gone)
        if not mine.any():
            return
        in_add = mine & (time_ns <= self._online)
        self._in_add += int(sizes[in_add].sum()) // UNIT_SIZE
        self._later += int(sizes[mine & ~in_add].sum()) // UNIT_SIZE
        earliest = int(time_ns[mine].min())
        self._first = earliest if self._first is None else min(self._first, earliest)

    def figures(self) -> PlugFigures:
        first = None if self._first is None else self._first - self._begun
        step = self._step
        return PlugFigures(
            step.device, step.size_bytes, step.took_ns, first, self._in_add, self._later
        )
