# SPDX-License-Identifier: MIT
"""A run directory as readers take it, never trusted: what is missing reads as missing, what cannot
be read is a UsageError, so that one bad directory does not hide a thousand good ones."""

from __future__ import annotations

import contextlib
import datetime
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from harness.base.reader import read_json
from harness.base.status import Status, UsageError
from harness.base.text import inert
from harness.record.rundir import RunDir

RUN_ID = re.compile(r"\b\d{8}T\d{6}Z-[0-9a-f]{6}\b")
"""The name of a run directory, as RunDir.create makes it."""


class CheckText(NamedTuple):
    """A recorded check as inert text; "" for what is missing."""

    name: str
    status: str
    detail: str


@dataclass(frozen=True)
class RunView:
    path: Path
    record: Mapping[str, Any]
    """run.json."""
    workload: Mapping[str, Any] | None
    """workload.json; None where the run got no report of its workload."""

    @classmethod
    def load(cls, path: Path) -> RunView:
        """Read `path`. Raises UsageError where it is no run directory."""
        directory = RunDir.load(path)
        try:
            Status(directory.record["status"])
        except (KeyError, ValueError) as error:
            raise UsageError(f"{path}/run.json has no status: {error}") from error
        workload = None
        with contextlib.suppress(UsageError):
            workload = read_json(path / "workload.json", dict[str, Any])
        return cls(directory.path, directory.record, workload)

    def get(self, *keys: str) -> Any:
        """The value under nested `keys` of run.json; None where there is none."""
        return dig(self.record, *keys)

    def text(self, *keys: str) -> str:
        """The same as one line of inert text; "" where there is neither text nor a number."""
        value = self.get(*keys)
        return inert(str(value)) if isinstance(value, str | int | float) else ""

    def integer(self, *keys: str) -> int | None:
        """The same as a number of 64 bits; None where there is none."""
        value = self.get(*keys)
        wanted = isinstance(value, int) and not isinstance(value, bool)
        return value if wanted and -(1 << 63) <= value < 1 << 63 else None

    @property
    def id(self) -> str:
        return self.path.name

    @property
    def status(self) -> Status:
        return Status(self.record["status"])

    @property
    def started(self) -> datetime.datetime | None:
        """When the run began, UTC."""
        return _moment(self.get("started_utc"))

    @property
    def duration_s(self) -> float | None:
        """From begin to verdict on the host's clock; None for a run that did not finish."""
        ended = _moment(self.get("ended_utc"))
        started = self.started
        return (ended - started).total_seconds() if ended and started else None

    @property
    def workload_name(self) -> str:
        """What was run in the guest; "" where nothing reported."""
        name = dig(self.workload or {}, "name")
        return name if isinstance(name, str) else ""

    @property
    def checks(self) -> tuple[CheckText, ...]:
        """The recorded checks."""
        checks = [check for check in self.get("checks") or () if isinstance(check, Mapping)]
        texts = ([check.get(name) for name in CheckText._fields] for check in checks)
        return tuple(
            CheckText(*(inert(t) if isinstance(t, str) else "" for t in row)) for row in texts
        )


def dig(tree: Any, *keys: str) -> Any:
    """The value under nested `keys`; None where any of them is missing."""
    for key in keys:
        if not isinstance(tree, Mapping):
            return None
        tree = tree.get(key)
    return tree


def number(tree: Any, *keys: str) -> float | None:
    """The finite number under nested `keys`; None where there is none."""
    value = dig(tree, *keys)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        found = float(value)
    except OverflowError:  # JSON knows integers of any length
        return None
    return found if math.isfinite(found) else None


def run_directories(root: Path) -> Iterator[Path]:
    """Every directory directly under `root` that holds a run.json, oldest first."""
    if not root.is_dir():
        return
    for path in sorted(root.iterdir()):
        if (path / "run.json").is_file():
            yield path


def _moment(value: object) -> datetime.datetime | None:
    try:
        moment = datetime.datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        return None
    return moment if moment and moment.tzinfo else None
