# SPDX-License-Identifier: MIT
"""Channels whose last message is their CLOSE."""

from __future__ import annotations

import threading
from typing import Any

import paramiko
from paramiko.common import cMSG_CHANNEL_CLOSE


class CloseGuard:
    """The transport as one channel sees it: drops what that channel sends after its CLOSE.

    Threads of paramiko 5.1's hold a channel's lock to make a message and send it after giving the
    lock back (Channel.shutdown_write, .sendall, .recv). If the command ends just then, the
    transport's thread answers the server's CLOSE first. To dropbear that was the channel's end
    (RFC 4254 section 5.3), and for what comes late it ends the connection with all that runs over
    it: "Exit (root): Unknown channel 0" (getchannel_msg() in common-channel.c, 2022.83).
    """

    def __init__(self, transport: paramiko.Transport) -> None:
        self._transport = transport
        self._order = threading.Lock()
        self._closed = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def _send_user_message(self, message: paramiko.Message) -> None:
        with self._order:
            if self._closed:
                return
            self._closed = message.asbytes()[:1] == cMSG_CHANNEL_CLOSE
            self._transport._send_user_message(message)  # type: ignore[attr-defined]


def open_session(transport: paramiko.Transport, timeout_s: float) -> paramiko.Channel:
    """A session channel. Raises as Transport.open_session."""
    channel = transport.open_session(timeout=timeout_s)
    # Before anything is sent on it; paramiko has no way to say which class of channel to make.
    channel.transport = CloseGuard(transport)  # type: ignore[assignment]
    return channel
