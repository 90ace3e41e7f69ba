# SPDX-License-Identifier: MIT
"""events.parquet: every accept event of a run, in order of CPU, then time (docs/run-directory.md).
A call is one accept_memory(); its rows follow each other."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from harness.base.reader import FileType
from harness.base.status import PreconditionError
from harness.base.units import UNIT_SIZE
from harness.record.columns import ROWS_AT_ONCE, Array, ColumnFile, metadata
from harness.record.frames import Frames
from harness.record.ringbuffer import Batch, EventFormat, read_batches

FILE = "events.parquet"
_TEXT = pa.dictionary(pa.int32(), pa.string())
SCHEMA = pa.schema(
    [
        ("time_ns", pa.int64()),
        ("cpu", pa.int16()),
        ("pid", pa.int32()),
        ("comm", _TEXT),
        ("call", pa.int64()),
        ("first", pa.bool_()),
        ("start_phys", pa.uint64()),
        ("end_phys", pa.uint64()),
        ("units", pa.int32()),
        ("duration_ns", pa.int64()),
        ("wait_ns", pa.int64()),
        ("irqs_off", pa.bool_()),
        ("caller", _TEXT),
    ]
)
Resolve = Callable[[Sequence[int]], Mapping[int, str]]
"""Names kernel addresses: each address given -> "symbol+0xoffset"."""


class TraceFacts(FileType, frozen=True):
    """What is known of the trace as a whole; kept in the file's metadata."""

    source: str
    """"event": the carried patch's trace event; "probes": dynamic probes."""
    lost_events: Mapping[int, int]
    """CPU -> events that its ring buffer dropped since boot."""
    lost_unknown: bool = False
    """Whether pages say that events were dropped before them, and not how many."""
    since_ns: int = 0
    """From when on all was recorded, guest CLOCK_MONOTONIC; 0: from early boot."""
    until_ns: int = 0
    """To when; 0: to the run's end."""
    lost_in_boot: int = 0
    """How many of them were lost before the run's first reading: boot's buffer is small, and a
    large guest that accepts all of its memory has more events than that."""

    @property
    def lost(self) -> int:
        """Events lost on all CPUs; at least 1 if some were and nobody knows how many."""
        return max(sum(self.lost_events.values()), int(self.lost_unknown))

    @property
    def lost_after_boot(self) -> int:
        """The same from the run's first reading on."""
        return self.lost - self.lost_in_boot


class EventsWriter:
    """Writes events.parquet. A context manager; `facts` may be given until it closes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        # Dictionaries only for what repeats: of stamps and addresses they are larger than these.
        self._writer = pq.ParquetWriter(
            path, SCHEMA, compression="zstd", use_dictionary=["comm", "caller"]
        )
        self._calls = 0
        self._cpu = -1
        self.rows = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.close()

    def finish(self, facts: TraceFacts) -> None:
        """Put `facts` into the file's metadata."""
        self._writer.add_key_value_metadata(metadata(facts))

    def add(self, columns: Mapping[str, Any], cpu: int) -> None:
        """Append one CPU's rows in the order of writing; `columns`: all of SCHEMA but cpu and call.
        Raises PreconditionError for events that contradict themselves."""
        first = np.asarray(columns["first"], dtype=bool)
        count = len(first)
        if not count:
            return
        start, end = np.asarray(columns["start_phys"]), np.asarray(columns["end_phys"])
        units = np.asarray(columns["units"])
        wrong = (end < start) | (end - start != units.astype(np.uint64) * np.uint64(UNIT_SIZE))
        if wrong.any():
            at = int(np.argmax(wrong))
            raise PreconditionError(
                f"an accept event contradicts itself: {units[at]} units from {start[at]:#x} to "
                f"{end[at]:#x}"
            )
        begins = first.copy()
        begins[0] |= cpu != self._cpu  # its first range may have been overwritten
        call = self._calls - 1 + np.cumsum(begins)
        self._calls, self._cpu = int(call[-1]) + 1, cpu
        arrays = dict(columns, first=first, call=call, cpu=np.full(count, cpu, np.int16))
        table = pa.table(
            [pa.array(arrays[field.name], field.type) for field in SCHEMA], schema=SCHEMA
        )
        self._writer.write_table(table, row_group_size=ROWS_AT_ONCE)
        self.rows += count


def convert_frames(
    frames: Frames, layout: EventFormat, resolve: Resolve, writer: EventsWriter
) -> bool:
    """Write all events of the carried patch's trace event; whether pages say that some were
    dropped. Raises PreconditionError where pages or events make no sense."""
    callers: dict[int, str] = {}
    dropped = False
    for cpu in frames.pages:
        for chunk in frames.chunks(cpu):
            for batch in read_batches(chunk, layout):
                dropped |= batch.missed_unknown or batch.missed > 0
                writer.add(_columns(batch, frames.comms, callers, resolve), cpu)
    return dropped


def _columns(
    batch: Batch, comms: Mapping[int, str], callers: dict[int, str], resolve: Resolve
) -> dict[str, Any]:
    fields = batch.fields
    try:
        pid, caller = fields["common_pid"].astype(np.int32), fields["caller"].astype(np.uint64)
        if missing := set(np.unique(caller).tolist()) - callers.keys():
            callers.update(resolve(sorted(missing)))
        return {
            "time_ns": batch.time_ns.astype(np.int64),
            "pid": pid,
            "comm": named(pid, comms, "<...>"),
            "first": fields["first"] != 0,
            "start_phys": fields["start"].astype(np.uint64),
            "end_phys": fields["end"].astype(np.uint64),
            "units": fields["units"].astype(np.int32),
            "duration_ns": _duration(fields["duration_ns"]),
            "wait_ns": _duration(fields["wait_ns"]),
            "irqs_off": fields["irqs_off"] != 0,
            "caller": named(caller, callers, "?"),
        }
    except ValueError as error:  # no such field
        raise PreconditionError(
            f"the accept event's format is not the known one: {error}"
        ) from error


def _duration(values: Array) -> Array:
    if values.size and int(values.max()) >= 1 << 62:
        raise PreconditionError(f"an accept event took {int(values.max())} ns: not believed")
    return values.astype(np.int64)


def named(keys: Array, names: Mapping[int, str], unknown: str) -> pa.DictionaryArray:
    """A dictionary column: one text for each distinct key."""
    distinct, index = np.unique(keys, return_inverse=True)
    texts = [names.get(int(key), unknown) for key in distinct]
    return pa.DictionaryArray.from_arrays(
        pa.array(index.astype(np.int32).reshape(-1)), pa.array(texts, pa.string())
    )


class Events(ColumnFile[TraceFacts]):
    def __init__(self, path: Path) -> None:
        super().__init__(path, SCHEMA, TraceFacts, "accept events")
