# SPDX-License-Identifier: MIT
"""The run directory. run.json is replaced by rename at every step, so a reader always finds a whole
one; until a run ends it says what holds if it never will: MISS, "did not finish"."""

from __future__ import annotations

import dataclasses
import datetime
import enum
import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from harness.base.reader import read_json
from harness.base.status import GuestFailure, HarnessError, HostError, Status, UsageError

SCHEMA = 1
UNFINISHED = "the run did not finish: the harness was stopped before it could"


def plain(value: object) -> Any:
    """`value` as JSON has it: dataclasses to objects, arrays to lists, enums to their values."""
    if isinstance(value, msgspec.Struct):
        return {name: plain(item) for name, item in msgspec.structs.asdict(value).items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if numbers := getattr(value, "tolist", None):  # numpy's arrays and scalars
        return numbers()
    return value


def write_json(path: Path, content: object) -> None:
    """Replace `path` with `content` in one step: readers see the old or the new, never a part."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(plain(content), indent=1, ensure_ascii=True) + "\n")
    temporary.replace(path)


class RunDir:
    def __init__(self, path: Path, record: dict[str, Any]) -> None:
        self.path = path
        self.record = record

    @classmethod
    def create(cls, root: Path, now: datetime.datetime | None = None) -> RunDir:
        """A new directory under `root`, named <utc>-<short id>. Raises HostError."""
        now = now or datetime.datetime.now(datetime.UTC)
        path = root / f"{now:%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"
        try:
            path.mkdir(parents=True)
        except OSError as error:
            raise HostError(
                f"cannot create the run directory {path}: {error.strerror}",
                hint="choose a place you can write with --runs DIR",
            ) from error
        run = cls(path.resolve(), {})
        run.update(
            schema=SCHEMA,
            id=path.name,
            started_utc=now.isoformat(timespec="milliseconds"),
            status=Status.MISS,
            cause=UNFINISHED,
        )
        return run

    @classmethod
    def load(cls, path: Path) -> RunDir:
        """An existing run directory. Raises UsageError where it is not one."""
        hint = "name a directory that holds a run.json, as printed at the end of a run"
        try:
            record = read_json(path / "run.json", dict[str, Any], hint)
        except UsageError as error:
            cause = f"{path} is not a run directory: {error.cause}"
            raise UsageError(cause, hint=error.hint) from error
        if record.get("schema") != SCHEMA:
            raise UsageError(f"{path}/run.json does not have schema {SCHEMA}")
        return cls(path.resolve(), record)

    def update(self, **fields: object) -> None:
        """Set top-level fields of run.json."""
        self.record.update(plain(fields))
        write_json(self.path / "run.json", self.record)

    def finish(self, status: Status, cause: str = "", *, hint: str = "") -> None:
        ended = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
        self.update(status=status, cause=cause, hint=hint, ended_utc=ended)

    def fail(self, error: BaseException) -> None:
        """Write the verdict that an exception stands for."""
        if isinstance(error, GuestFailure) and error.signal:
            self.update(signal=error.signal)
        if isinstance(error, HarnessError):
            self.finish(error.status, error.cause, hint=error.hint)
        elif isinstance(error, KeyboardInterrupt):
            self.finish(Status.MISS, "interrupted")
        else:
            self.finish(Status.MISS, f"{type(error).__name__}: {error}")
