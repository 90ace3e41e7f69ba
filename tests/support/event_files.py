# SPDX-License-Identifier: MIT
"""events.parquet as a run leaves it, of events given one by one."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from harness.record.events import EventsWriter, TraceFacts
from harness.record.trace import AcceptEvent


def write_events(path: Path, events: Iterable[AcceptEvent], facts: TraceFacts) -> None:
    """Write `events` to `path`, CPU by CPU."""
    by_cpu: dict[int, list[AcceptEvent]] = {}
    for event in events:
        by_cpu.setdefault(event.cpu, []).append(event)
    with EventsWriter(path) as writer:
        for cpu, found in sorted(by_cpu.items()):
            writer.add(
                {
                    "time_ns": [e.time_ns for e in found],
                    "pid": [e.pid for e in found],
                    "comm": [e.comm for e in found],
                    "first": [e.first for e in found],
                    "start_phys": np.array([e.start for e in found], np.uint64),
                    "end_phys": np.array([e.end for e in found], np.uint64),
                    "units": np.array([e.units for e in found], np.int32),
                    "duration_ns": [e.duration_ns for e in found],
                    "wait_ns": [e.wait_ns for e in found],
                    "irqs_off": [e.irqs_off for e in found],
                    "caller": [e.caller for e in found],
                },
                cpu,
            )
        writer.finish(facts)
