# SPDX-License-Identifier: MIT
"""The emulated platform's event stream: stored whole, or refused with the reason."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.base.status import PreconditionError
from harness.record.platform import (
    MAGIC,
    RECORD,
    RESULTS,
    PlatformEvents,
    WitnessKind,
    read_stream,
    store_stream,
)
from tests.support.platform_streams import header, record, write_stream


def stored(path: Path) -> PlatformEvents:
    target = path.with_suffix(".parquet")
    store_stream(read_stream(path), target)
    return PlatformEvents(target)


def column(events: PlatformEvents, name: str) -> list[object]:
    return [value for batch in events.batches(name) for value in batch[name].tolist()]


def test_records_come_back_in_words(tmp_path: Path) -> None:
    path = write_stream(
        tmp_path / "platform.stream",
        record(WitnessKind.LAUNCH, npages=512, aux=3),
        record(
            WitnessKind.ACCEPT,
            gpa=1 << 32,
            npages=512,
            level=1,
            before=1,
            after=2,
            aux=512,
            vcpu=1,
            rip=0xFFFFFFFF81000000,
        ),
        record(WitnessKind.VIOLATION, flags=2, result=2, vcpu=0xFFFF, aux=0xFFFF888000000000),
        record(WitnessKind.TO_SHARED, npages=9, aux=7 << 32 | 9),
        platform=2,
    )
    events = stored(path)
    assert events.facts.platform == "snp"
    assert (events.rows, events.facts.lost, events.facts.torn_bytes) == (4, 0, 0)
    assert column(events, "kind") == ["launch", "accept", "violation", "to-shared"]
    assert column(events, "vcpu") == [0, 1, -1, 0]
    assert column(events, "before") == ["none", "pending", "none", "none"]
    assert column(events, "after") == ["none", "private", "none", "none"]
    assert column(events, "implicit") == [False, False, True, False]
    assert column(events, "result") == ["ok", "ok", "report", "ok"]
    assert column(events, "changed") == [3, 512, 0xFFFF888000000000, 9]
    assert column(events, "were_pending") == [0, 0, 0, 7]
    assert column(events, "rip")[1] == 0xFFFFFFFF81000000


def test_a_gap_in_the_numbers_is_what_was_lost(tmp_path: Path) -> None:
    records = [record(WitnessKind.ACCEPT, seq=seq) for seq in (0, 1, 4, 5)]
    facts = stored(write_stream(tmp_path / "s", *records)).facts
    assert facts.lost == 2


def test_a_torn_record_at_the_end_is_dropped_and_told(tmp_path: Path) -> None:
    path = write_stream(tmp_path / "s", record(WitnessKind.LAUNCH), record(WitnessKind.ACCEPT))
    path.write_bytes(path.read_bytes()[:-7])
    events = stored(path)
    assert (events.rows, events.facts.torn_bytes) == (1, RECORD.itemsize - 7)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not even a stream's header"),
        (header()[:-1], "not even a stream's header"),
        (b"\0" * 64, "known format"),
        (header(size=32), "known format"),
        (header(platform=9), "unknown platform"),
        (header() + record(WitnessKind.ACCEPT, seq=1).tobytes() * 2, "order of their numbers"),
        (header() + record(99, seq=0).tobytes(), "unknown kind"),
        (header() + record(0, seq=0).tobytes(), "unknown kind"),
        (
            header() + record(WitnessKind.ACCEPT, seq=0, result=len(RESULTS)).tobytes(),
            "unknown result",
        ),
        (header() + record(WitnessKind.VIOLATION, seq=0, result=3).tobytes(), "unknown result"),
    ],
)
def test_what_is_no_stream_is_refused(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "s"
    path.write_bytes(content)
    with pytest.raises(PreconditionError, match=words):
        read_stream(path)


@given(st.binary(max_size=400), st.booleans())
def test_any_bytes_are_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, led: bool
) -> None:
    path = tmp_path_factory.mktemp("stream") / "s"
    path.write_bytes((header() if led else b"") + content)
    try:
        events = stored(path)
    except PreconditionError:
        return
    assert led or content.startswith(MAGIC)
    assert events.rows * RECORD.itemsize + events.facts.torn_bytes == len(content)
    column(events, "kind")


@given(st.lists(st.integers(0, 1 << 40), unique=True, max_size=40), st.integers(0, 63))
def test_every_whole_record_survives_in_order(
    tmp_path_factory: pytest.TempPathFactory, numbers: list[int], torn: int
) -> None:
    records = [record(WitnessKind.ACCEPT, seq=seq, gpa=seq << 12) for seq in sorted(numbers)]
    path = write_stream(tmp_path_factory.mktemp("stream") / "s", *records)
    with path.open("ab") as file:
        file.write(b"\x01" * torn)
    events = stored(path)
    gpas: npt.NDArray[np.uint64] = np.array([seq << 12 for seq in sorted(numbers)], np.uint64)
    assert column(events, "gpa") == gpas.tolist()
    assert events.facts.lost == (max(numbers) + 1 - len(numbers) if numbers else 0)


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "platform.parquet"
    path.write_bytes(b"PAR1 or not")
    with pytest.raises(PreconditionError, match="cannot be read as platform events"):
        PlatformEvents(path)
