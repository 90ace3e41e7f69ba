# SPDX-License-Identifier: MIT
"""Plan files: what a night is to do, every key checked. Format: docs/nightly.md."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import force_setattr

from harness.analysis.metrics import metric_named
from harness.base.guest_options import guest_option, guest_options
from harness.base.options import Door, unknown
from harness.base.reader import ENGLISH, FileType, Words, convert, parse_toml, read_toml
from harness.base.status import UsageError
from harness.base.units import GIB, parse_size
from harness.kernel.source import parse_source

GuestValue = str | int | bool

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}")
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*([smhd]?)")
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
_HINT = "see docs/nightly.md"


class Seconds(float):
    """A duration, in a file as text: "90", "45m", "8h"."""

    @classmethod
    def from_file(cls, value: object) -> Seconds:
        """Raises UsageError, ValueError."""
        return cls(parse_duration(_string(value)))


class Bytes(int):
    """A size, in a file as text: "20G"."""

    @classmethod
    def from_file(cls, value: object) -> Bytes:
        """Raises ValueError."""
        return cls(parse_size(_string(value)))


class GuestValues(dict[str, GuestValue]):
    @classmethod
    def from_file(cls, value: object) -> GuestValues:
        """Raises UsageError for an option that plans do not have, ValueError."""
        return cls((key, _guest_value(key, item)) for key, item in _table(value).items())


class Matrix(dict[str, tuple[GuestValue, ...]]):
    """Options of guests, each with the values to be tried: in a file a list, or one value."""

    @classmethod
    def from_file(cls, value: object) -> Matrix:
        """Raises UsageError for an option that plans do not have, ValueError."""
        matrix = cls()
        for key, item in _table(value).items():
            values = item if isinstance(item, list) else [item]
            if not values:
                raise ValueError(f"{key} has no value")
            matrix[key] = tuple(_guest_value(key, one) for one in values)
        return matrix


class Matrices(tuple[Matrix, ...]):
    """One matrix, or a list of them, whose points are put together."""

    __slots__ = ()

    @classmethod
    def from_file(cls, value: object) -> Matrices:
        """Raises UsageError for an option that plans do not have, ValueError."""
        tables = value if isinstance(value, list) else [value]
        return cls(Matrix.from_file(table) for table in tables)


class Exclude(dict[str, GuestValue | list[GuestValue]]):
    """Cells that are not to be run: those that match every key, or one of a list of values."""

    reason: str
    """Why not; it is reported."""

    @classmethod
    def from_file(cls, value: object) -> Exclude:
        """Raises UsageError for a key that no cell has, ValueError."""
        made = cls(_table(value))
        known = ["reason", "kind", "kernel", "config", "suite", "workload"]
        known += [option.name for option in guest_options(Door.PLAN)]
        for key in made:
            if key not in known:
                raise unknown("cells have no", key, known)
        reason = made.pop("reason", None)
        if not isinstance(reason, str):
            raise ValueError("reason is missing" if reason is None else "reason must be a string")
        if not made:
            raise ValueError("would exclude everything: it names no key")
        made.reason = reason
        return made


class _Named(FileType, frozen=True):
    name: str
    """It becomes part of file names."""

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise UsageError(f"not a name: {self.name!r}", hint="use letters, digits and . _ + -")


class KernelArm(_Named, frozen=True):
    """A kernel of the plan. With a `base`, what is measured on it is compared with the base."""

    source: str
    """debian:6.12, a tree, git:REPOSITORY@REF, or a bzImage (docs/kernels.md)."""
    patches: Words = Words()
    """Files, mailboxes, directories of patches, or git:REPOSITORY@A..B."""
    base: str | None = None
    dirty: bool = False
    """Accept a work tree with uncommitted changes, whose results nobody can repeat later."""

    def __post_init__(self) -> None:
        super().__post_init__()
        parse_source(self.source)


class Config(_Named, frozen=True):
    """A kernel configuration: fragments and settings on top of the default ones."""

    fragments: Words = Words()
    settings: Words = Words()


class Suite(_Named, frozen=True):
    """Functional tests."""

    tests: Words = Words()
    """Paths or node ids for pytest."""
    options: Words = Words()
    """More words for pytest."""
    repeats: int = 2
    """How often what failed is run again, to tell a flake from a hard failure."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.tests:
            raise UsageError("no tests", hint='write tests = ["tests/guest"]')
        if not 0 <= self.repeats <= 20:
            raise ValueError("repeats must be 0 to 20")


class Measured(_Named, frozen=True):
    """A workload that is measured."""

    workload: str = ""
    """Of `cvm-harness run`; in a file it may be left out where the name says it."""
    options: Words = Words()
    """More words for `cvm-harness run WORKLOAD`."""
    metrics: Words = Words()
    """What is compared (docs/metrics.md); empty: cost.workload under icount, else elapsed time."""
    margin_percent: float = 2.0
    """Differences up to this do not matter; a bigger one for the worse is FAIL."""
    repetitions: int = 5
    """Fresh guests per kernel."""
    detect_percent: float | None = None
    """Go on, up to `most` guests per kernel, until an effect of this size would be seen."""
    most: int = 50
    guest: GuestValues = msgspec.field(default_factory=GuestValues)
    """Guest options of this workload, over the matrix: clock = "icount"."""

    def __post_init__(self) -> None:
        super().__post_init__()
        force_setattr(self, "workload", self.workload or self.name)
        if not 1 <= self.repetitions <= self.most <= 10_000:
            raise ValueError("1 <= repetitions <= most <= 10000 does not hold")
        for metric in self.metrics:
            metric_named(metric)
        if not 0 < self.margin_percent < 100:
            raise ValueError("margin_percent must be between 0 and 100")
        if self.detect_percent is not None and not 0 < self.detect_percent < 100:
            raise ValueError("detect_percent must be between 0 and 100")


class Limits(FileType, frozen=True, rename={"time_s": "time", "cell_time_s": "cell_time"}):
    """What a night may use."""

    time_s: Seconds | None = None
    cell_time_s: Seconds = Seconds(3600)
    disk: Bytes = Bytes(20 * GIB)
    """That the night's directory may take."""
    free_disk: Bytes = Bytes(GIB)
    """That must stay free on its file system."""
    memory: Bytes | None = None
    """Of the host, for guests that run at once; None: what is free."""
    alone: bool = True
    """What measures wall-clock time waits until no other guest runs on the host."""


_TABLES = {
    "kernels": "kernel",
    "configs": "config",
    "suites": "suite",
    "workloads": "workload",
    "excludes": "exclude",
}


class Plan(_Named, frozen=True, rename=_TABLES):
    kernels: tuple[KernelArm, ...] = ()
    configs: tuple[Config, ...] = ()
    """Without any in the file: the default one."""
    matrix: Matrices = Matrices([Matrix()])
    suites: tuple[Suite, ...] = ()
    workloads: tuple[Measured, ...] = ()
    excludes: tuple[Exclude, ...] = ()
    limits: Limits = Limits()
    baselines: str = "baselines"
    """Directory of stored baselines, for kernels that are measured without a base."""
    seed: int = 1
    """Of the order in which A and B alternate."""

    def __post_init__(self) -> None:
        super().__post_init__()
        force_setattr(self, "configs", self.configs or (Config("default"),))
        if not self.kernels:
            raise UsageError("no [[kernel]]", hint="see docs/nightly.md for an example")
        if not self.suites and not self.workloads:
            raise ValueError("neither [[suite]] nor [[workload]]: there is nothing to do")
        tables: tuple[Iterable[_Named], ...]
        tables = (self.kernels, self.configs, self.suites, self.workloads)
        for key, table in zip(_TABLES.values(), tables, strict=False):
            names = [row.name for row in table]
            for name in names:
                if names.count(name) > 1:
                    raise ValueError(f"two of [[{key}]] are called {name!r}")
        for arm in self.kernels:
            others = [other.name for other in self.kernels if other is not arm]
            if arm.base is not None and arm.base not in others:
                raise ValueError(f"kernel {arm.name}: no other kernel is called {arm.base!r}")

    def kernel(self, name: str) -> KernelArm:
        return next(arm for arm in self.kernels if arm.name == name)


def read_plan(path: Path) -> Plan:
    data = {"name": path.stem, **read_toml(path, dict[str, Any], _HINT)}
    return convert(data, Plan, str(path), _HINT)


def parse_plan(text: str) -> Plan:
    """The plan that `text` describes. Raises UsageError naming the table and key at fault."""
    data = {"name": "plan", **parse_toml(text, dict[str, Any], "plan", _HINT)}
    return convert(data, Plan, "plan", _HINT)


def parse_duration(text: str) -> float:
    """Seconds meant by "90", "45m", "8h". Raises UsageError."""
    match = _DURATION.fullmatch(text.strip())
    if not match or float(match[1]) <= 0:
        raise UsageError(f"not a duration: {text!r}", hint="write 90s, 45m or 8h")
    return float(match[1]) * _SECONDS[match[2]]


def _string(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"must be a string, not {value!r:.80}")
    return value


def _table(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"must be a table, not {value!r:.80}")
    return value


def _guest_value(key: str, value: object) -> GuestValue:
    option = guest_option(key)
    if Door.PLAN not in option.row.doors:
        raise ValueError(f"plans have no guest option {key!r}")
    kind = option.row.kind.plan
    if type(value) is not kind:  # bool is an int, and not meant here
        raise ValueError(f"{key} must be {ENGLISH[kind.__name__]}, not {value!r:.80}")
    return value  # type: ignore[return-value]
