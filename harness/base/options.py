# SPDX-License-Identifier: MIT
"""Options as people give them: how a value is read from text and written back, and what one row of
the table of guest options says (harness/base/guest_options.py)."""

import difflib
import enum
import re
import shlex
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar

from harness.base.status import UsageError
from harness.base.units import MIB, parse_size

DEFAULT_KERNEL = "debian:6.12"

_Choice = TypeVar("_Choice", bound=Enum)


def choice(kind: type[_Choice], text: str, option: str) -> _Choice:
    """The member of `kind` called `text`. Raises UsageError that lists the others."""
    try:
        return kind(text)
    except ValueError:
        known = ", ".join(member.value for member in kind)
        raise UsageError(f"unknown {option} {text!r}", hint=f"use one of {known}") from None


def size(text: str, option: str) -> int:
    """Bytes meant by `text`. Raises UsageError naming the option."""
    try:
        return parse_size(text)
    except ValueError as error:
        raise UsageError(f"{option}: {error}") from None


def number(text: str) -> int:
    """The number meant by `text`, in any base that Python writes: 196608, 0x30000."""
    try:
        return int(text, 0)
    except ValueError:
        raise ValueError(f"not a number: {text!r}") from None


def existing_file(text: str) -> Path:
    """The absolute path of a file that is there. Raises ValueError."""
    found = Path(text).expanduser()
    if not found.is_file():
        raise ValueError(f"no such file: {text}")
    return found.absolute()


def unknown(what: str, name: str, known: Iterable[str]) -> UsageError:
    """The error for a name that is none of `known`: its hint has the nearest, or all of them."""
    names = list(known)
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {near[0]}?" if near else f"use one of {', '.join(names)}"
    return UsageError(f"{what} {name!r}", hint=hint)


@dataclass(frozen=True)
class PackagedFirmware:
    """OVMF from the distribution's package, as apt offers it."""

    suite: str = ""
    """The only suite to look in; empty: all that this machine's archive has."""

    def __str__(self) -> str:
        return f"debian:{self.suite}" if self.suite else "debian"


def firmware(text: str) -> Path | PackagedFirmware:
    """The image file or package meant by `text`: debian, debian:SUITE, or a file that is there.
    Raises ValueError."""
    package = re.fullmatch(r"debian(?::([a-z][a-z0-9-]*))?", text)
    return PackagedFirmware(package[1] or "") if package else existing_file(text)


class Door(enum.Flag):
    CLI = enum.auto()
    """`cvm-harness run`, `boot` and every other verb that starts guests."""
    PYTEST = enum.auto()
    PLAN = enum.auto()
    """Plan files (docs/nightly.md)."""
    MARK = enum.auto()
    """`@pytest.mark.acceptance(...)`."""


EVERY_DOOR = Door.CLI | Door.PYTEST | Door.PLAN | Door.MARK
GUEST_DOORS = EVERY_DOOR & ~Door.MARK
"""Every door but the mark: for what a test leaves to whoever runs it."""


@dataclass(frozen=True)
class ValueKind:
    """A kind of value: how it is read, written and shown."""

    name: str
    value_type: type | UnionType
    read: Callable[[str], Any]
    """Raises ValueError or UsageError."""
    write: Callable[[Any], str]
    """The text that `read` makes the same value of."""
    metavar: str
    plan: type = str
    """Type of the value in a plan file: str, int or bool."""
    choices: tuple[str, ...] = ()
    """Every text that `read` takes; empty where they cannot be listed."""


def _write_size(size: int) -> str:
    return f"{size // MIB}M" if size % MIB == 0 else str(size)


def _words(text: str) -> tuple[str, ...]:
    try:
        return tuple(shlex.split(text))
    except ValueError as error:
        raise ValueError(f"{error}: {text!r}") from None


SIZE = ValueKind("size", int, parse_size, _write_size, "SIZE")
NUMBER = ValueKind("number", int, number, str, "N", plan=int)
BITS = ValueKind("bits", int, number, hex, "BITS")
FLAG = ValueKind("flag", bool, bool, str, "", plan=bool)
TEXT = ValueKind("text", str, str, str, "TEXT")
FILE = ValueKind("file", Path, existing_file, str, "FILE")
FIRMWARE = ValueKind("firmware", Path | PackagedFirmware, firmware, str, "FILE or debian[:SUITE]")
WORDS = ValueKind("words", tuple, _words, shlex.join, "WORDS")
NAMES = ValueKind(
    "names", tuple, lambda text: tuple(filter(None, text.split(","))), ",".join, "NAME,…"
)


def one_of(kind: type[_Choice], what: str) -> ValueKind:
    """The members of `kind`, by their values; `what` is what an error calls them."""
    known = tuple(member.value for member in kind)
    return ValueKind(
        "choice",
        kind,
        lambda text: choice(kind, text, what),
        lambda member: str(member.value),
        f"[{'|'.join(known)}]",
        choices=known,
    )


@dataclass(frozen=True)
class Compared:
    """What `compare` makes of runs that differ in an option (harness/compare/runs.py)."""

    name: str = ""
    """What it is called there; empty: as on the command line."""
    part: str = ""
    """Where in the recorded value the figure is that counts; empty: all of it."""
    setting: bool = False
    """Figures mean something else where it differs. Anything else may be what a comparison is
    about."""


@dataclass(frozen=True)
class OptionFacts:
    """What a field of the spec says of its option: the metadata of `option` fields."""

    kind: ValueKind
    help: str
    name: str = ""
    """As a keyword, a plan's key and a mark's argument; empty: the field's own name."""
    targets: tuple[str, ...] = ()
    """The targets whose guests can have it; empty: all."""
    doors: Door = EVERY_DOOR
    needs: str = ""
    """The option without which this one means nothing."""
    moving: str = ""
    """What the default is where it depends on the host or the target, in words."""
    wish: bool = False
    """A test that asks for it runs as well on a target that cannot have it."""
    compared: Compared = Compared()


def option(default: Any, kind: ValueKind, help: str, **facts: Any) -> Any:
    """A field of the spec that people can give. `facts` are the other fields of Row."""
    return field(default=default, metadata={"option": OptionFacts(kind, help, **facts)})


@dataclass(frozen=True)
class Option:
    """One guest option: a row of the table, and where in the spec its value is."""

    name: str
    path: tuple[str, ...]
    """Fields that lead to the value: ("emulation", "route")."""
    default: Any
    row: OptionFacts

    @property
    def flag(self) -> str:
        """As written on a command line: --numa-nodes."""
        return "--" + self.name.replace("_", "-")

    @property
    def negative(self) -> str:
        """How a flag is switched off: --no-strict."""
        return "--no-" + self.name.replace("_", "-")

    @property
    def compared(self) -> str:
        """What a comparison calls it."""
        return self.row.compared.name or self.name.replace("_", " ")

    @property
    def recorded(self) -> tuple[str, ...]:
        """Where in a recorded spec the value is that `compare` looks at."""
        part = self.row.compared.part
        return (*self.path, part) if part else self.path

    @property
    def default_text(self) -> str:
        """The default in words; empty where there is none."""
        return self.row.moving or self._text(self.default)

    def _text(self, value: Any) -> str:
        if self.row.kind is FLAG:
            return "on" if value else "off"
        return self.row.kind.write(value) if value not in (None, "", (), 0) else ""

    def help_with(self, default: Any = None) -> str:
        """The sentence, which targets have it, and the default: the table's, or `default`."""
        only = f" ({', '.join(self.row.targets)})" if self.row.targets else ""
        text = self.default_text if default is None else self._text(default)
        shown = f"  [default: {text}]" if text else ""
        return f"{self.row.help.removesuffix('.')}{only}.{shown}"

    def applies_to(self, target: str) -> bool:
        return not self.row.targets or target in self.row.targets

    def value(self, given: object) -> Any:
        """What `given` means, a text or a value of the option's own type; None for what stands for
        the default ("auto"). Raises UsageError naming the option."""
        kind = self.row.kind
        if isinstance(given, str | Path) and kind.value_type not in (str, bool):
            try:
                return kind.read(str(given))
            except ValueError as error:
                raise UsageError(f"{self.flag}: {error}") from None
        if isinstance(given, bool) is not (kind.value_type is bool) or not isinstance(
            given, kind.value_type
        ):
            raise UsageError(f"{self.flag}: not a {kind.name}: {given!r}")
        return given

    def argument(self, value: Any) -> str:
        """The word of a command line that says `value`."""
        if self.row.kind is FLAG:
            return self.flag if value else self.negative
        return f"{self.flag}={self.row.kind.write(value)}"
