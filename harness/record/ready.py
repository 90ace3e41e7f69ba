# SPDX-License-Identifier: MIT
"""The messages of guest-images/minimal/src/init.c on the ready port: JSON lines, not to be
trusted."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import msgspec
from msgspec import Meta

from harness.base.text import printable

MAX_LINE = 16 * 1024
"""Bytes in one message. The kernel's own command line takes at most 2 KiB of one."""
MAX_MESSAGES = 1000
"""Messages kept of one guest; it sends two in a boot and one for each status request."""

Value = int | str | bool | None | Mapping[str, int | str | bool | None]

_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
_Name = Annotated[str, Meta(pattern=rf"\A{_NAME.pattern}\Z")]
_Integer = Annotated[int, Meta(ge=-(1 << 63), le=(1 << 63) - 1)]
_Scalar = _Integer | Annotated[str, Meta(max_length=8 * 1024)] | bool | None
_Fields = Annotated[dict[_Name, _Scalar], Meta(max_length=64)]
_MESSAGE: msgspec.json.Decoder[dict[str, Value]] = msgspec.json.Decoder(
    Annotated[dict[_Name, _Scalar | _Fields], Meta(max_length=64)]
)


class BadMessage(ValueError):
    """What the guest sent is not a message."""


@dataclass(frozen=True)
class GuestMessage:
    """One message, checked: names are short identifiers, values bounded scalars."""

    event: str
    fields: Mapping[str, Value]
    host_ns: int
    """Host CLOCK_MONOTONIC when it had come in whole."""

    def integer(self, name: str) -> int | None:
        """The integer field `name`; None if there is none or it is something else."""
        value = self.fields.get(name)
        return value if isinstance(value, int) and not isinstance(value, bool) else None

    def string(self, name: str) -> str:
        """The string field `name`; "" if there is none or it is something else."""
        value = self.fields.get(name)
        return value if isinstance(value, str) else ""


def parse_message(line: bytes, host_ns: int = 0) -> GuestMessage:
    """The message in `line`. Raises BadMessage, naming what is wrong with it."""
    if len(line) > MAX_LINE:
        raise BadMessage(f"longer than {MAX_LINE} bytes")
    try:
        fields = _MESSAGE.decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadMessage(f"not a message ({error}): {printable(line[:200])}") from error
    event = fields.pop("event", None)
    if not isinstance(event, str) or not _NAME.fullmatch(event):
        raise BadMessage(f'no field "event" with a name in it: {printable(line[:200])}')
    return GuestMessage(event, fields, host_ns)


class ReadyPort:
    """Splits what comes in on the port into messages. Memory is bounded, whatever comes."""

    def __init__(self) -> None:
        self.messages: list[GuestMessage] = []
        self.rejected = 0
        self.first_rejection = ""
        self._partial = bytearray()
        self._skipping = False

    def feed(self, data: bytes, host_ns: int) -> None:
        *ended, rest = data.split(b"\n")
        for piece in ended:
            self._collect(piece)
            self._end_line(host_ns)
        self._collect(rest)

    def _collect(self, piece: bytes) -> None:
        if self._skipping:
            return
        self._partial += piece
        if len(self._partial) > MAX_LINE:
            self._skipping = True
            self._partial.clear()
            self._reject(f"a message longer than {MAX_LINE} bytes")

    def _end_line(self, host_ns: int) -> None:
        line = bytes(self._partial).strip()
        self._partial.clear()
        skipped, self._skipping = self._skipping, False
        if not line or skipped:
            return
        if len(self.messages) >= MAX_MESSAGES:
            self._reject(f"more than {MAX_MESSAGES} messages")
            return
        try:
            self.messages.append(parse_message(line, host_ns))
        except BadMessage as error:
            self._reject(str(error))

    def _reject(self, reason: str) -> None:
        self.rejected += 1
        self.first_rejection = self.first_rejection or reason

    def last(self, event: str) -> GuestMessage | None:
        return next((m for m in reversed(self.messages) if m.event == event), None)
