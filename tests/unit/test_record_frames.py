# SPDX-License-Identifier: MIT
"""The stream of trace pages is taken whole or refused; events come out of it as they went in."""

import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.base.status import PreconditionError
from harness.base.units import UNIT_SIZE
from harness.record.events import Events, EventsWriter, TraceFacts, convert_frames
from harness.record.frames import parse_frames
from harness.record.ringbuffer import PAGE_BYTES, parse_format

_COMMON = """ID: 517
\tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;
\tfield:unsigned char common_flags;\toffset:2;\tsize:1;\tsigned:0;
\tfield:unsigned char common_preempt_count;\toffset:3;\tsize:1;\tsigned:0;
\tfield:int common_pid;\toffset:4;\tsize:4;\tsigned:1;
"""
_FIELDS = [
    ("u64", "start", 8),
    ("u64", "end", 8),
    ("u64", "duration_ns", 8),
    ("u64", "wait_ns", 8),
    ("unsigned long", "caller", 8),
    ("unsigned int", "units", 4),
    ("u8", "first", 1),
    ("u8", "irqs_off", 1),
]


def layout_text() -> str:
    lines, offset = [_COMMON], 8
    for kind, name, size in _FIELDS:
        lines.append(f"\tfield:{kind} {name};\toffset:{offset};\tsize:{size};\tsigned:0;\n")
        offset += size
    return "".join(lines)


LAYOUT = parse_format(layout_text())


def event(start: int, units: int, pid: int = 7, first: int = 1, end: int | None = None) -> bytes:
    end = start + units * UNIT_SIZE if end is None else end
    data = struct.pack(
        "<HBBiQQQQQIBBxx", 517, 0, 0, pid, start, end, 50, 9, 0xFFFF_FFFF_8100_0123, units, first, 1
    )
    return struct.pack("<I", (len(data) // 4) | (10 << 5)) + data


def page(stamp: int, *events: bytes) -> bytes:
    body = b"".join(events)
    return (struct.pack("<QQ", stamp, len(body)) + body).ljust(PAGE_BYTES, b"\0")


def frame(kind: int, number: int, data: bytes) -> bytes:
    return struct.pack("<III", kind, number, len(data)) + data


END = frame(3, 2, b"")


def bytes_of(data: bytes) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
    return np.frombuffer(data, np.uint8)


def test_events_of_all_cpus_come_out_with_names(tmp_path: Path) -> None:
    stream = frame(2, 0, b"7 cvm\n8 a b\n")
    stream += frame(1, 1, page(1000, event(0, 2), event(4 * UNIT_SIZE, 1, first=0)))
    stream += frame(1, 0, page(500, event(0, 1, pid=9)))
    stream += frame(1, 1, page(2000, event(8 * UNIT_SIZE, 1, pid=8))) + END
    asked: list[int] = []

    def resolve(addresses: object) -> dict[int, str]:
        asked.extend(addresses)  # type: ignore[arg-type]
        return {0xFFFF_FFFF_8100_0123: "__accept_page+0x7a"}

    path = tmp_path / "events.parquet"
    with EventsWriter(path) as writer:
        assert not convert_frames(parse_frames(bytes_of(stream)), LAYOUT, resolve, writer)
        writer.finish(TraceFacts("event", {0: 0, 1: 0}))
    rows = [row for batch in Events(path).record_batches(*_NAMES) for row in batch.to_pylist()]
    assert [tuple(row.values()) for row in rows] == [
        (510, 0, 9, "<...>", 0, 1, 50, "__accept_page+0x7a"),
        (1010, 1, 7, "cvm", 1, 2, 50, "__accept_page+0x7a"),
        (1020, 1, 7, "cvm", 1, 1, 50, "__accept_page+0x7a"),
        (2010, 1, 8, "a b", 2, 1, 50, "__accept_page+0x7a"),
    ]
    assert asked == [0xFFFF_FFFF_8100_0123]  # each address once


_NAMES = ("time_ns", "cpu", "pid", "comm", "call", "units", "duration_ns", "caller")


@given(st.integers(1, 200))
def test_a_stream_that_was_cut_off_is_refused(cut: int) -> None:
    stream = frame(1, 0, page(0, event(0, 1))) + END
    with pytest.raises(PreconditionError, match="cut off"):
        parse_frames(bytes_of(stream[:-cut]))


@given(st.binary(max_size=300))
def test_any_bytes_are_a_stream_or_refused(data: bytes) -> None:
    try:
        frames = parse_frames(bytes_of(data))
    except PreconditionError:
        return
    assert sum(length for found in frames.pages.values() for _, length in found) <= len(data)


def test_what_goes_on_after_the_end_is_refused() -> None:
    with pytest.raises(PreconditionError, match="after its end"):
        parse_frames(bytes_of(END + END))


def test_an_event_that_contradicts_itself_is_refused(tmp_path: Path) -> None:
    stream = frame(1, 0, page(0, event(0, 1, end=3 * UNIT_SIZE))) + END
    frames = parse_frames(bytes_of(stream))
    with (
        EventsWriter(tmp_path / "events.parquet") as writer,
        pytest.raises(PreconditionError, match="contradicts itself"),
    ):
        convert_frames(frames, LAYOUT, lambda _: {}, writer)
