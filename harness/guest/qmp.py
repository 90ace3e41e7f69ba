# SPDX-License-Identifier: MIT
"""QMP: the library's client with a transcript. Events are handed on as they come: EventListener's
queue has no bound, and in qemu.qmp 0.0.6 its get() stays blocked after QEMU is killed."""

import json
import logging
import time
from collections.abc import Callable
from typing import TextIO

from qemu.qmp import ExecuteError, QMPClient, QMPError
from qemu.qmp.message import Message

__all__ = ["ExecuteError", "QMPError", "QmpClient"]

# QEMU's death shows as an error in several of the library's tasks; the monitor reports it once.
logging.getLogger("qemu.qmp").addHandler(logging.NullHandler())


class QmpClient(QMPClient):
    """One connection. All that is said goes to `transcript`, one JSON object a line."""

    def __init__(self, transcript: TextIO, on_event: Callable[[dict[str, object]], None]) -> None:
        super().__init__("guest")
        self._transcript = transcript
        self._on_event = on_event

    async def _event_dispatch(self, event: Message) -> None:
        self._on_event(dict(event))

    def _cb_outbound(self, msg: Message) -> Message:
        return self._record("sent", msg)

    def _cb_inbound(self, msg: Message) -> Message:
        return self._record("received", msg)

    def _record(self, way: str, msg: Message) -> Message:
        line = {"host_monotonic_ns": time.monotonic_ns(), way: dict(msg)}
        self._transcript.write(json.dumps(line, separators=(",", ":")) + "\n")
        self._transcript.flush()
        return msg
