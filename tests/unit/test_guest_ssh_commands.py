# SPDX-License-Identifier: MIT
"""What is sent on a channel, and when. Against a real server: tests/guest/test_robustness.py."""

import inspect
from typing import Any, cast

import paramiko
import pytest
from paramiko.common import cMSG_CHANNEL_CLOSE, cMSG_CHANNEL_DATA, cMSG_CHANNEL_EOF

from harness.guest.ssh.commands import open_session

REMOTE = 7


class Wire:
    """A transport whose channels are open at once; keeps the kind of each message."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []

    def open_session(self, timeout: float) -> paramiko.Channel:
        channel = cast(Any, paramiko.Channel(0))
        channel._set_transport(self)
        channel._set_window(1 << 16, 1 << 15)
        channel._set_remote_channel(REMOTE, 1 << 16, 1 << 15)
        return cast(paramiko.Channel, channel)

    def get_log_channel(self) -> str:
        return "paramiko.test"

    def _sanitize_packet_size(self, size: int) -> int:
        return size

    def _unlink_channel(self, chanid: int) -> None:
        pass

    def _send_user_message(self, message: paramiko.Message) -> None:
        self.sent.append(message.asbytes()[:1])


@pytest.fixture
def wire() -> Wire:
    return Wire()


@pytest.fixture
def channel(wire: Wire) -> Any:
    return open_session(cast(paramiko.Transport, wire), 1.0)


def test_channels_send_by_the_method_that_is_replaced() -> None:
    """It is private to paramiko: pyproject.toml names the releases that have it."""
    assert inspect.isfunction(cast(Any, paramiko.Transport)._send_user_message)
    senders = {
        name
        for name, method in vars(paramiko.Channel).items()
        if inspect.isfunction(method) and "_send_user_message" in method.__code__.co_names
    }
    assert senders >= {"close", "recv", "recv_stderr", "shutdown", "_send"}


def test_what_comes_after_close_is_not_sent(wire: Wire, channel: Any) -> None:
    late = channel._send_eof()  # made under the channel's lock, as shutdown_write does
    channel._handle_close(None)  # the transport's thread: the server closed
    channel.transport._send_user_message(late)
    assert wire.sent == [cMSG_CHANNEL_CLOSE]


def test_what_comes_before_close_is_sent_in_order(wire: Wire, channel: Any) -> None:
    channel.sendall(b"data")
    channel.close()
    assert wire.sent == [cMSG_CHANNEL_DATA, cMSG_CHANNEL_EOF, cMSG_CHANNEL_CLOSE]


def test_another_channel_of_the_same_number_is_not_closed(wire: Wire, channel: Any) -> None:
    channel.close()
    del wire.sent[:]
    again = cast(Any, open_session(cast(paramiko.Transport, wire), 1.0))
    again.sendall(b"data")
    assert wire.sent == [cMSG_CHANNEL_DATA]
