# SPDX-License-Identifier: MIT
"""An append-only journal that survives SIGKILL, a full disk and a power cut: one JSON object a
line, on disk before `append` returns. A torn last line was never reported as written."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from harness.base.reader import FileType, convert
from harness.base.status import HostError, UsageError
from harness.record.rundir import plain

JOURNAL = "journal.jsonl"
BALLAST = 1 << 20
"""Bytes held in reserve beside the journal, given up when the disk is full, so that the end of
what was going on can still be written down."""

Event = dict[str, Any]
_T = TypeVar("_T", bound=FileType)


def read_events(path: Path) -> list[Event]:
    """The events of a journal, a torn last line left out. Raises UsageError if it is damaged."""
    return _parse(path, path.read_bytes())[0]


def told(event: Event, kind: type[_T]) -> _T:
    """The `kind` whose fields are among those of `event`; who it is about and when it was are
    others. Raises UsageError where they make none."""
    fields = {name: event[name] for name in kind.__struct_fields__ if name in event}
    where = f"event {event['event']} of {event.get('utc')}"
    return convert(fields, kind, where, "the journal was damaged: start anew")


def _parse(path: Path, data: bytes) -> tuple[list[Event], int]:
    """The events, and how many bytes they take."""
    events: list[Event] = []
    whole = data.rfind(b"\n") + 1
    for number, line in enumerate(data[:whole].splitlines(), 1):
        try:
            event = json.loads(line)
        except ValueError:
            event = None
        if not isinstance(event, dict) or not isinstance(event.get("event"), str):
            raise UsageError(
                f"{path}: line {number} is not an event", hint="the file was damaged: start anew"
            )
        events.append(event)
    return events, whole


class Journal:
    """A journal open for writing; one process at a time. Use as a context manager."""

    def __init__(self, path: Path) -> None:
        """Open or create. Raises HostError where another process has it open."""
        self.path = path
        self._ballast = path.with_name(path.name + ".ballast")
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.events, whole = _parse(path, path.read_bytes())
            os.ftruncate(self._fd, whole)
        except BlockingIOError:
            os.close(self._fd)
            raise HostError(
                f"{path.parent} is in use by another process", hint="wait for it to end"
            ) from None
        except BaseException:
            os.close(self._fd)
            raise
        self._reserve()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)
        self.release_reserve()

    def release_reserve(self) -> None:
        """Give back the space that is held for a full disk."""
        self._ballast.unlink(missing_ok=True)

    def append(self, event: str, **fields: object) -> Event:
        """Write an event to the disk (fsync), with the time; it is also in `events`."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        record: Event = {"event": event, "utc": now, **plain(fields)}
        line = json.dumps(record, ensure_ascii=True).encode() + b"\n"
        size = os.fstat(self._fd).st_size
        try:
            self._write(line, size)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            self.release_reserve()
            self._write(line, size)
        self.events.append(record)
        return record

    def _write(self, line: bytes, size: int) -> None:
        try:
            written = os.write(self._fd, line)
            if written != len(line):
                raise OSError(errno.ENOSPC, "short write")
            os.fsync(self._fd)
        except OSError:
            os.ftruncate(self._fd, size)  # no half line may stay before the next one
            raise

    def _reserve(self) -> None:
        with contextlib.suppress(OSError):  # a full disk: then there is no reserve
            fd = os.open(self._ballast, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                os.posix_fallocate(fd, 0, BALLAST)
            finally:
                os.close(fd)

    def read(self, event: str, kind: type[_T], **wanted: object) -> Iterator[_T]:
        """The same, each as the `kind` that was appended with it. Raises UsageError."""
        for record in self.of(event, **wanted):
            yield told(record, kind)

    def of(self, event: str, **wanted: object) -> Iterator[Event]:
        """The events called `event` whose fields have the values `wanted`."""
        for record in self.events:
            if record["event"] == event and all(record.get(k) == v for k, v in wanted.items()):
                yield record
