# SPDX-License-Identifier: MIT
"""Steps of random tests and readers of /proc/kcore, on guests that are only told."""

import struct
from unittest.mock import Mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.base.status import PreconditionError
from harness.base.units import MIB, UNIT_SIZE
from harness.suite import upheavals
from harness.suite.corefile import KCORE, core_offset
from harness.suite.operations import BLOCK, Operation, apply
from harness.suite.subject import Subject

GAP = 128 * MIB


def told(**answers: object) -> Mock:
    """A subject whose methods answer as they are told; `require` and `verify` are real."""
    subject = Mock(spec=Subject, **answers)
    subject.checks = []
    subject.require = lambda holds, detail: Subject.require(subject, holds, detail)
    subject.verify = lambda *words: Subject.verify(subject, *words)
    return subject


def elf(segments: list[tuple[int, int, int]]) -> bytes:
    """The head of an ELF file with a note and PT_LOADs of (offset, physical address, size)."""
    header = struct.pack(
        "<16s2xHIQQQIHHHHHH",
        *(b"\x7fELF" + bytes(12), 62, 1, 0, 64, 0, 0, 64, 56, len(segments) + 1, 0, 0, 0),
    )
    note = struct.pack("<IIQQQQQQ", 4, 0, 4096, 0, 0, 100, 100, 0)
    loads = [
        struct.pack("<IIQQQQQQ", 1, 7, offset, 0, physical, size, size, 0)
        for offset, physical, size in segments
    ]
    return b"".join([header, note, *loads]).ljust(8192, b"\0")


def kcore(head: bytes) -> Mock:
    run = Mock()
    run.guest.run.return_value.stdout = head
    return told(run=run)


def test_an_address_is_found_in_the_segment_that_has_it() -> None:
    subject = kcore(elf([(0x3000, 0x1000, 0x1000), (0x9000, 0x100000, 0x200000)]))
    assert core_offset(subject, KCORE, 0x100000) == 0x9000
    assert core_offset(subject, KCORE, 0x180000) == 0x89000
    assert core_offset(subject, KCORE, 0x300000) is None


@given(st.binary(max_size=400))
def test_what_is_no_kcore_is_refused_or_has_no_such_address(junk: bytes) -> None:
    try:
        found = core_offset(kcore(b"\x7fELF" + junk), KCORE, 0x100000)
    except PreconditionError:
        return
    assert found is None or isinstance(found, int)


def test_only_blocks_that_are_unaccepted_from_end_to_end_are_cycled() -> None:
    written: list[str] = []

    def sh(script: str, **_options: object) -> str:
        word, _, path = script.split("'")[1].removeprefix("echo ").partition(" > ")
        written.append(f"{path.rsplit('/', 2)[1]} {word}")
        return "done\n"

    runs = [range(MIB, 3 * GAP - MIB), range(4 * GAP, 5 * GAP)]
    subject = told(**{"read.return_value": f"{GAP:x}\n", "pending.return_value": runs})
    subject.sh = sh
    for place in range(3):
        upheavals.cycle_block(subject, place)
    numbers = [1, 4, 1]
    assert written == [f"memory{n} {word}" for n in numbers for word in ("offline", "online")]


def test_a_block_that_stays_is_a_failure_and_is_not_put_online() -> None:
    subject = told(
        **{
            "read.return_value": f"{GAP:x}\n",
            "pending.return_value": [range(GAP, 2 * GAP)],
            "sh.return_value": "",
        }
    )
    upheavals.cycle_block(subject, 0)
    assert [check.signal for check in subject.checks] == ["offline"]
    assert subject.sh.call_count == 1


@pytest.mark.parametrize(
    ("shift", "signal"), [(0, "isolation"), (256, "isolation"), (512, "isolation-within-block")]
)
def test_a_range_that_begins_within_a_block_has_a_signal_of_its_own(
    shift: int, signal: str
) -> None:
    subject = told(
        **{
            "pending.return_value": [range(UNIT_SIZE, UNIT_SIZE + 32 * BLOCK)],
            "hook.return_value": {"done": 0, "errno": 16},
        }
    )
    apply(subject, Operation("range", {"place": 3, "blocks": 2, "shift": shift}))
    failed = [check.signal for check in subject.checks if check.status.value == "FAIL"]
    assert failed == [signal]
