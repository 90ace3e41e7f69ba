# SPDX-License-Identifier: MIT
"""The ready port's messages, from a guest that may send anything."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.base.status import HostError, PreconditionError
from harness.guest.control import forwarded_port
from harness.record.boot import BootRecord, parse_init, parse_ready
from harness.record.ready import MAX_LINE, MAX_MESSAGES, BadMessage, ReadyPort, parse_message

BOOT_ID = "18f1323b-371f-4584-8cda-ad1ea452fbcb"
INIT = b'{"event":"init","nr_unaccepted_pages":1024,"monotonic_ns":6499281880,"release":"6.12"}'
READY = (
    b'{"event":"ready","boot_id":"' + BOOT_ID.encode() + b'","cmdline":"console=ttyS0 ",'
    b'"monotonic_ns":7000000000,"stages_ns":{"init":1,"sshd":2}}'
)


def test_messages_as_the_image_sends_them() -> None:
    port = ReadyPort()
    port.feed(INIT + b"\n" + READY + b"\n", 5)
    first, second = port.messages
    assert parse_init(first).nr_unaccepted_pages == 1024
    ready = parse_ready(second)
    assert (ready.boot_id, ready.cmdline) == (BOOT_ID, "console=ttyS0")
    assert second.host_ns == 5
    assert not port.rejected


def test_a_missing_counter_is_not_zero() -> None:
    assert parse_init(parse_message(b'{"event":"init"}')).nr_unaccepted_pages == -1


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b'{"event":1}',
        b'{"event":"INIT"}',
        b'{"event":"a","x":NaN}',
        b'{"event":"a","x":Infinity}',
        b'{"event":"a","x":1.5}',
        b'{"event":"a","x":[1]}',
        b'{"event":"a","x":{"y":{"z":1}}}',
        b'{"event":"a","x":18446744073709551616}',
        b'{"event":"a","X":1}',
        b'{"event":"a","__class__":1}',
        b'{"event":"a","x":' + b"9" * 5000 + b"}",
        b"[" * 15000,
        b'{"event":"a","x":"' + b"y" * 9000 + b'"}',
        b'{"event":"a",' + b",".join(b'"k%d":1' % i for i in range(80)) + b"}",
        b"\xff\xfe",
    ],
)
def test_nonsense_is_refused(line: bytes) -> None:
    with pytest.raises(BadMessage):
        parse_message(line)


@pytest.mark.parametrize(
    "line",
    [
        b'{"event":"init","nr_unaccepted_pages":"many"}',
        b'{"event":"init","nr_unaccepted_pages":-2}',
        b'{"event":"init","nr_unaccepted_pages":true}',
        b'{"event":"init","monotonic_ns":-1}',
    ],
)
def test_an_init_message_that_cannot_be_right(line: bytes) -> None:
    with pytest.raises(PreconditionError):
        parse_init(parse_message(line))


@pytest.mark.parametrize("boot_id", ["", "x", "../../etc/passwd", BOOT_ID + "\n", BOOT_ID.upper()])
def test_a_ready_message_without_a_boot_id(boot_id: str) -> None:
    line = json.dumps({"event": "ready", "boot_id": boot_id}).encode()
    with pytest.raises(PreconditionError):
        parse_ready(parse_message(line))


@given(st.binary(max_size=300))
def test_any_bytes_parse_or_are_refused(data: bytes) -> None:
    try:
        message = parse_message(data)
    except BadMessage:
        return
    assert message.event


@given(
    st.lists(st.sampled_from([INIT, READY, b"x", b"y" * (MAX_LINE + 9), b""]), max_size=6),
    st.lists(st.integers(0, 60000), max_size=6),
)
def test_pieces_make_no_difference(lines: list[bytes], cuts: list[int]) -> None:
    data = b"\n".join(lines)
    whole, pieces = ReadyPort(), ReadyPort()
    whole.feed(data, 1)
    ends = sorted(min(cut, len(data)) for cut in cuts)
    for start, end in zip([0, *ends], [*ends, len(data)], strict=True):
        pieces.feed(data[start:end], 1)
    assert pieces.messages == whole.messages
    assert pieces.rejected == whole.rejected


def test_a_flood_is_bounded() -> None:
    port = ReadyPort()
    for _ in range(3):
        port.feed(b'{"event":"a"}\n' * MAX_MESSAGES, 1)
    port.feed(b"z" * (10 << 20), 1)
    assert len(port.messages) == MAX_MESSAGES
    assert len(port._partial) <= MAX_LINE
    assert port.rejected == 2 * MAX_MESSAGES + 1


def test_a_stage_not_reached_is_an_error() -> None:
    record = BootRecord({"spawn": 10, "init": 30})
    assert record.since_spawn_ns("init") == 20
    with pytest.raises(PreconditionError, match="first_command"):
        record.since_spawn_ns("first_command")


USERNET = """Hub -1 (net0):
  Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ
  TCP[HOST_FORWARD]  12       127.0.0.1 37905       10.0.2.15    22     0     0
  UDP[236 sec]       21       10.0.2.15 40000        10.0.2.3    53     0     0
"""


def test_the_port_that_qemu_picked() -> None:
    assert forwarded_port(USERNET.replace("\n", "\r\n")) == 37905


@given(st.text())
def test_usernet_nonsense_is_an_error(text: str) -> None:
    with pytest.raises(HostError, match="no forward"):
        forwarded_port(text)


@pytest.mark.parametrize(("old", "new"), [("37905", "0"), ("37905", "99999"), ("  22 ", "  23 ")])
def test_usernet_with_no_usable_forward(old: str, new: str) -> None:
    with pytest.raises(HostError, match="no forward"):
        forwarded_port(USERNET.replace(old, new))
