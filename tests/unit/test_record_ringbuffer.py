# SPDX-License-Identifier: MIT
"""Binary trace pages, made here as the kernel makes them, come back event for event."""

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.base.status import PreconditionError
from harness.record.ringbuffer import PAGE_BYTES, Batch, parse_format, read_batches

FORMAT = """name: accept_memory
ID: 517
format:
\tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;
\tfield:unsigned char common_flags;\toffset:2;\tsize:1;\tsigned:0;
\tfield:unsigned char common_preempt_count;\toffset:3;\tsize:1;\tsigned:0;
\tfield:int common_pid;\toffset:4;\tsize:4;\tsigned:1;

\tfield:u64 start;\toffset:8;\tsize:8;\tsigned:0;
\tfield:u64 duration_ns;\toffset:16;\tsize:8;\tsigned:0;
\tfield:u8 first;\toffset:24;\tsize:1;\tsigned:0;

print fmt: "start=0x%llx", REC->start
"""
LAYOUT = parse_format(FORMAT)


def event(
    delta: int, start: int, duration: int, first: int, pid: int = 7, number: int = 517
) -> bytes:
    data = struct.pack("<HBBiQQBxxx", number, 0, 0, pid, start, duration, first)
    words = b""
    if delta >= 1 << 27:
        words = struct.pack("<II", 30 | ((delta & ((1 << 27) - 1)) << 5), delta >> 27)
        delta = 0
    return words + struct.pack("<I", (len(data) // 4) | (delta << 5)) + data


def page(stamp: int, events: bytes, flags: int = 0, tail: bytes = b"") -> bytes:
    assert len(events) + len(tail) <= PAGE_BYTES - 16
    return (struct.pack("<QQ", stamp, len(events) | flags) + events + tail).ljust(PAGE_BYTES, b"\0")


def read(data: bytes) -> Batch:
    (batch,) = read_batches(np.frombuffer(data, dtype=np.uint8), LAYOUT)
    return batch


events = st.tuples(
    st.integers(0, 1 << 40),
    st.integers(0, (1 << 64) - 1),
    st.integers(0, 1 << 50),
    st.integers(0, 1),
)


@given(
    st.lists(
        st.tuples(st.integers(0, 1 << 50), st.lists(events, max_size=40)), min_size=1, max_size=5
    )
)
def test_what_the_kernel_writes_is_what_is_read(
    pages: list[tuple[int, list[tuple[int, int, int, int]]]],
) -> None:
    data, expected = b"", []
    for stamp, batch in pages:
        now = stamp
        for delta, start, duration, first in batch:
            now += delta
            expected.append((now, start, duration, first))
        data += page(stamp, b"".join(event(*fields) for fields in batch))
    got = read(data)
    rows = zip(
        got.time_ns.tolist(),
        got.fields["start"].tolist(),
        got.fields["duration_ns"].tolist(),
        got.fields["first"].tolist(),
        strict=True,
    )
    assert list(rows) == expected
    assert (got.missed, got.missed_unknown) == (0, False)


def test_other_events_padding_and_absolute_stamps_are_passed_over() -> None:
    other = event(1, 0, 0, 0, number=99)
    padding = struct.pack("<II", 29 | (5 << 5), 8) + b"\xff" * 4
    absolute = struct.pack("<II", 31 | (123 << 5), 2)
    rest = struct.pack("<I", 29) + b"\0" * 60
    got = read(page(100, other + padding + event(4, 1, 2, 1) + absolute + event(1, 3, 4, 0) + rest))
    assert got.fields["start"].tolist() == [1, 3]
    assert got.time_ns.tolist() == [100 + 1 + 5 + 4, (2 << 27) + 123 + 1]
    assert got.fields["common_pid"].tolist() == [7, 7]


def test_losses_are_counted_and_unknown_losses_are_not_zero() -> None:
    counted = page(0, event(0, 1, 1, 1), (1 << 31) | (1 << 30), struct.pack("<Q", 42))
    assert (read(counted).missed, read(counted).missed_unknown) == (42, False)
    unknown = page(0, event(0, 1, 1, 1), 1 << 31)
    assert read(unknown).missed_unknown


@given(st.binary(min_size=1, max_size=200), st.integers(1, PAGE_BYTES - 16))
def test_hostile_pages_are_read_or_refused(content: bytes, commit: int) -> None:
    data = (struct.pack("<QQ", 5, commit) + content).ljust(PAGE_BYTES, b"\x41")
    try:
        got = read(data)
    except PreconditionError:
        return
    assert len(got.fields) == len(got.time_ns)


@pytest.mark.parametrize("size", [1, PAGE_BYTES - 1, PAGE_BYTES + 1])
def test_half_a_page_is_refused(size: int) -> None:
    with pytest.raises(PreconditionError, match="whole pages"):
        list(read_batches(np.zeros(size, dtype=np.uint8), LAYOUT))


@given(st.text(max_size=300))
def test_any_format_text_is_read_or_refused(text: str) -> None:
    with pytest.raises(PreconditionError):
        parse_format(text)
