# SPDX-License-Identifier: MIT
"""The guest's messages on the ready port: newline-terminated JSON objects, not to be trusted.

The messages are made by guest-images/minimal/src/init.c.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

from harness.base.text import printable

MAX_LINE = 16 * 1024
"""Bytes in one message. The kernel's own command line takes at most 2 KiB of one."""
MAX_MESSAGES = 1000
"""Messages kept of one guest; it sends two in a boot and one for each status request."""
_MAX_FIELDS = 64
_MAX_STRING = 8 * 1024
_MAX_INTEGER = (1 << 64) - 1
_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")

Value = int | str | bool | None | Mapping[str, "int | str | bool | None"]


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

    def string(self, name: str) -> str | None:
        """The string field `name`; None if there is none or it is something else."""
        value = self.fields.get(name)
        return value if isinstance(value, str) else None


def parse_message(line: bytes, host_ns: int = 0) -> GuestMessage:
    """The message in `line`. Raises BadMessage, naming what is wrong with it."""
    if len(line) > MAX_LINE:
        raise BadMessage(f"longer than {MAX_LINE} bytes")
    try:
        data = json.loads(line, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise BadMessage(f"not JSON ({type(error).__name__}): {printable(line[:200])}") from error
    fields = _checked(data, depth=0)
    event = fields.pop("event", None)
    if not isinstance(event, str) or not _NAME.fullmatch(event):
        raise BadMessage(f'no field "event" with a name in it: {printable(line[:200])}')
    return GuestMessage(event, fields, host_ns)


def _refuse(constant: str) -> object:
    raise ValueError(f"{constant} is not JSON")


def _checked(data: object, depth: int) -> dict[str, Value]:
    if not isinstance(data, dict):
        raise BadMessage(f"not an object but {type(data).__name__}")
    if len(data) > _MAX_FIELDS:
        raise BadMessage(f"{len(data)} fields, at most {_MAX_FIELDS} are allowed")
    for name, value in data.items():
        if not _NAME.fullmatch(name):
            raise BadMessage(f"field name {printable(name.encode()[:80])!r} is not an identifier")
        if isinstance(value, dict) and depth == 0:
            _checked(value, depth + 1)
        elif isinstance(value, str):
            if len(value) > _MAX_STRING:
                raise BadMessage(f"field {name} is longer than {_MAX_STRING} characters")
        elif isinstance(value, int):
            if abs(value) > _MAX_INTEGER:
                raise BadMessage(f"field {name} is out of range")
        elif value is not None:
            raise BadMessage(f"field {name} is a {type(value).__name__}")
    return data


class ReadyPort:
    """Splits what comes in on the port into messages. Memory is bounded, whatever comes."""

    def __init__(self) -> None:
        self.messages: list[GuestMessage] = []
        self.rejected = 0
        self.first_rejection = ""
        self._partial = bytearray()
        self._skipping = False

    def feed(self, data: bytes, host_ns: int) -> None:
        """Take the next bytes of the stream."""
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
        if line and not skipped:
            self._parse(line, host_ns)

    def _parse(self, line: bytes, host_ns: int) -> None:
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
        """The latest message of that kind."""
        return next((m for m in reversed(self.messages) if m.event == event), None)

    def first(self, event: str) -> GuestMessage | None:
        """The earliest message of that kind."""
        return next((m for m in self.messages if m.event == event), None)
