# SPDX-License-Identifier: MIT
"""How long, and in how much memory, a trace of millions of events is read and analysed.

    python -m tests.bench.analysis [EVENTS]

Makes the binary pages of such a trace (not timed), then, in a process of its own, turns them into
events.parquet and computes every figure. Bounds for 5 million events: 20 s and 1 GiB.
"""

from __future__ import annotations

import multiprocessing
import resource
import struct
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from harness.analysis.accepts import StageBounds, figures
from harness.analysis.workload import Operations, Worker, stall_shares
from harness.base.status import Status
from harness.base.units import GIB, UNIT_SIZE, format_size
from harness.record.events import Events, EventsWriter, TraceFacts, convert_frames
from harness.record.frames import FileStream, parse_frames
from harness.record.histogram import histogram_of
from harness.record.ringbuffer import PAGE_BYTES, parse_format

MAX_S = 20.0
MAX_BYTES = GIB
CPUS = 8
_EVENT_BYTES = 60
_EVENTS_OF_A_PAGE = (PAGE_BYTES - 16) // _EVENT_BYTES
_PAGES_OF_A_FRAME = 16
_TASKS, _KEPT = 99, 1024
"""Tasks, and the operations that each keeps one by one."""

EVENT = np.dtype(
    [
        ("header", "<u4"),
        ("type", "<u2"),
        ("flags", "u1"),
        ("preempt", "u1"),
        ("pid", "<i4"),
        ("start", "<u8"),
        ("end", "<u8"),
        ("duration", "<u8"),
        ("wait", "<u8"),
        ("caller", "<u8"),
        ("units", "<u4"),
        ("first", "u1"),
        ("irqs_off", "u1"),
        ("pad", "<u2"),
    ]
)


_FIELDS = (
    ("unsigned short", "common_type", 2),
    ("unsigned char", "common_flags", 1),
    ("unsigned char", "common_preempt_count", 1),
    ("int", "common_pid", 4),
    ("u64", "start", 8),
    ("u64", "end", 8),
    ("u64", "duration_ns", 8),
    ("u64", "wait_ns", 8),
    ("unsigned long", "caller", 8),
    ("unsigned int", "units", 4),
    ("u8", "first", 1),
    ("u8", "irqs_off", 1),
)


def format_text() -> str:
    """The event's format file, as the kernel writes it."""
    lines, offset = ["ID: 517"], 0
    for kind, name, size in _FIELDS:
        signed = int(kind == "int")
        lines.append(f"\tfield:{kind} {name};\toffset:{offset};\tsize:{size};\tsigned:{signed};")
        offset += size
    return "\n".join(lines)


def make(path: Path, events: int) -> int:
    """Write the stream of a trace with about `events` events; how many there are."""
    assert EVENT.itemsize == _EVENT_BYTES
    random = np.random.default_rng(1)
    pages_of_a_cpu = events // CPUS // _EVENTS_OF_A_PAGE
    with path.open("wb") as file:
        file.write(struct.pack("<III", 2, 0, 6) + b"7 cvm\n")
        for cpu in range(CPUS):
            for first_page in range(0, pages_of_a_cpu, _PAGES_OF_A_FRAME):
                pages = min(_PAGES_OF_A_FRAME, pages_of_a_cpu - first_page)
                file.write(struct.pack("<III", 1, cpu, pages * PAGE_BYTES))
                file.write(_pages(random, pages, first_page * _EVENTS_OF_A_PAGE * 10_000))
        file.write(struct.pack("<III", 3, CPUS, 0))
    return pages_of_a_cpu * _EVENTS_OF_A_PAGE * CPUS


def _pages(random: np.random.Generator, pages: int, stamp: int) -> bytes:
    count = pages * _EVENTS_OF_A_PAGE
    rows = np.zeros(count, EVENT)
    rows["header"] = ((_EVENT_BYTES - 4) // 4) | (10_000 << 5)
    rows["type"], rows["pid"] = 517, random.integers(1, _TASKS + 1, count)
    rows["units"] = random.integers(1, 3, count)
    rows["start"] = random.integers(0, 1 << 20, count).astype(np.uint64) * UNIT_SIZE
    rows["end"] = rows["start"] + rows["units"].astype(np.uint64) * np.uint64(UNIT_SIZE)
    rows["duration"] = random.integers(1_000, 9_000, count)
    rows["wait"] = random.integers(0, 2, count) * random.integers(0, 5_000, count)
    rows["caller"] = 0xFFFF_FFFF_8100_0000 + random.integers(0, 8, count).astype(np.uint64) * 16
    rows["first"] = random.integers(0, 4, count) > 0
    body = rows.view(np.uint8).reshape(pages, -1)
    grid = np.zeros((pages, PAGE_BYTES), np.uint8)
    stamps = stamp + np.arange(pages, dtype=np.uint64) * _EVENTS_OF_A_PAGE * 10_000
    grid[:, :8] = stamps.view(np.uint8).reshape(pages, 8)
    grid[:, 8:16] = np.full(pages, body.shape[1], np.uint64).view(np.uint8).reshape(pages, 8)
    grid[:, 16 : 16 + body.shape[1]] = body
    return grid.tobytes()


def _operations() -> Operations:
    """Of the tasks that the events belong to, each with as many slow operations as are kept."""
    random = np.random.default_rng(2)
    took = np.sort(random.integers(10_000, 900_000, (_TASKS, _KEPT)), axis=1)
    starts = np.arange(_KEPT, dtype=np.int64) * 1_000_000
    workers = tuple(
        Worker(
            tid=tid,
            start_ns=0,
            stop_ns=_KEPT * 1_000_000,
            total_ns=int(row.sum()),
            operations=_KEPT,
            slowest=np.column_stack([starts, row]),
        )
        for tid, row in enumerate(took, 1)
    )
    return Operations(took.size, None, workers, histogram_of(took.reshape(-1), 6))


def _measure(
    stream: Path, answers: multiprocessing.SimpleQueue[tuple[float, float, int, int]]
) -> None:
    began, began_cpu = time.perf_counter(), time.process_time()
    out = stream.with_suffix(".parquet")
    frames = parse_frames(FileStream(stream))
    with EventsWriter(out) as writer:
        layout = parse_format(format_text())
        convert_frames(frames, layout, lambda some: dict.fromkeys(some, "f"), writer)
        writer.finish(TraceFacts("event", {}))
    found = figures(Events(out), StageBounds(0, 1, 2))
    stall_shares(_operations(), Events(out))
    elapsed = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    answers.put((elapsed, time.process_time() - began_cpu, peak, found.summary.events))


def measure(stream: Path) -> tuple[float, float, int, int]:
    """Seconds, CPU seconds, peak bytes and events; in a process of its own, for its memory."""
    context = multiprocessing.get_context("spawn")
    answers: multiprocessing.SimpleQueue[tuple[float, float, int, int]] = context.SimpleQueue()
    process = context.Process(target=_measure, args=(stream, answers))
    process.start()
    process.join()
    if process.exitcode:
        raise SystemExit(f"the analysis ended with exit code {process.exitcode}")
    return answers.get()


def main() -> None:
    """Print what was measured; exit code 1 beyond the bounds, 3 if the host was too busy to say."""
    wanted = int(sys.argv[1]) if len(sys.argv) > 1 else 5_000_000
    with tempfile.TemporaryDirectory(dir="/var/tmp") as directory:
        stream = Path(directory) / "trace.raw"
        made = make(stream, wanted)
        size = stream.stat().st_size
        elapsed, cpu, peak, events = measure(stream)
    if events != made:
        raise SystemExit(f"{made:,} events were made, {events:,} came out")
    print(
        f"{events:,} events, {format_size(size)} of pages: read and analysed in {elapsed:.1f} s, "
        f"{cpu:.1f} s of CPU "
        f"(bound {MAX_S:.0f} s), peak memory {format_size(peak)} (bound {format_size(MAX_BYTES)})"
    )
    if cpu > MAX_S or peak > MAX_BYTES:
        raise SystemExit(1)
    if elapsed > MAX_S:
        print("no verdict: the host was busy with other things; run it again when it is not")
        raise SystemExit(Status.ERROR.exit_code)


if __name__ == "__main__":
    main()
