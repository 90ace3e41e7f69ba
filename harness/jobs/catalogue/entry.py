# SPDX-License-Identifier: MIT
"""One known bug as data: where it comes from, how it is brought back, what has to catch it."""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from harness.base.status import UsageError
from harness.kernel.version import Version, VersionRange

ENTRIES = Path(__file__).parent / "entries"
FRAGMENT = "bugs"
"""The configuration fragment whose kernel has all the bugs in it, each switched off."""
PARAMETER = "unaccepted_bug"
"""The kernel's boot parameter that switches one on (the carried patch known-bugs)."""

ANY = VersionRange()

_ID = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*")


@dataclass(frozen=True)
class Catch:
    """Tests that have to FAIL while the bug is on, and what they have to fail for."""

    tests: tuple[str, ...]
    """pytest node ids, relative to the project's root."""
    signals: frozenset[str]
    """Signals (docs/suite.md) that stand for this bug; one of them is enough."""
    cause: str = ""
    """Where no signal says it (a guest that does not boot): a pattern for the verdict's cause."""
    versions: VersionRange = ANY
    """Kernels on which these tests catch it."""

    def __post_init__(self) -> None:
        if not self.tests or not (self.signals or self.cause):
            raise ValueError("a catch names tests, and signals or a cause")


@dataclass(frozen=True)
class ByHand:
    """How to see the bug without the suite."""

    guest: tuple[str, ...] = ()
    """Options of `cvm-harness boot`, one string each: "--memory=2G"."""
    commands: str = ""
    """Shell commands to give in the guest; empty: booting is enough."""
    see: str = ""
    """What is seen with the bug on, and what without."""

    def command_line(self, entry: Entry, kernel: str) -> str:
        """The command that boots a guest with the bug on and runs the commands in it."""
        append = [entry.command_line()]
        options = []
        for option in self.guest:
            if option.startswith("--append="):
                append.insert(0, option.removeprefix("--append="))
            else:
                options.append(option)
        argv = ["cvm-harness", "boot", f"--kernel={kernel}", f"--fragment={FRAGMENT}", *options]
        argv.append(f"--append={' '.join(append)}")
        if self.commands:
            argv += ["-c", self.commands.strip()]
        return shlex.join(argv)


@dataclass(frozen=True)
class Entry:
    """One bug of the catalogue."""

    id: str
    """As in the boot parameter."""
    title: str
    symptom: str
    how: str
    """How the switch brings the bug back."""
    versions: VersionRange
    """Kernels that have the switch."""
    catches: tuple[Catch, ...]
    fix: str = ""
    """The upstream commit that fixed it, or that would have; empty: the bug was made up."""
    fixed_in: str = ""
    """The first release with the fix."""
    by_hand: ByHand = ByHand()
    append: str = ""
    """More words for the kernel's command line, so that the bug is seen for what it is."""
    uncaught: str = ""
    """Why no test catches it, and what was tried; then `catches` is empty."""

    def __post_init__(self) -> None:
        if not _ID.fullmatch(self.id):
            raise ValueError(f"id {self.id!r} is not of the form word-word")
        if bool(self.catches) == bool(self.uncaught):
            raise ValueError("an entry has either [[catch]] tables or `uncaught`, the reason")

    def command_line(self) -> str:
        """What switches it on, for a guest kernel's command line."""
        return f"{PARAMETER}={self.id} {self.append}".strip()

    @property
    def origin(self) -> str:
        """ "fixed by e538a5820978 in 6.7", or "made up"."""
        if not self.fix:
            return "made up"
        return f"fixed by {self.fix}" + (f" in {self.fixed_in}" if self.fixed_in else "")

    def catches_on(self, version: Version) -> tuple[Catch, ...]:
        """What has to catch it on a kernel of `version`; empty where it has no switch there."""
        if version not in self.versions:
            return ()
        return tuple(catch for catch in self.catches if version in catch.versions)


def load_entries(directory: Path = ENTRIES) -> tuple[Entry, ...]:
    """All entries, by id. Raises UsageError naming the file and what is wrong with it."""
    files = sorted(directory.glob("*.toml"))
    if not files:
        raise UsageError(f"no bug in {directory}", hint="an entry is a file ID.toml")
    return tuple(read_entry(file) for file in files)


def read_entry(file: Path) -> Entry:
    """The entry in `file`. Raises UsageError."""
    try:
        entry = parse_entry(tomllib.loads(file.read_text(encoding="utf-8")))
    except (OSError, tomllib.TOMLDecodeError, TypeError, ValueError, KeyError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise UsageError(
            f"{file}: {reason}", hint="docs/catalogue.md lists what an entry has"
        ) from error
    if entry.id != file.stem:
        raise UsageError(f"{file}: its id is {entry.id!r}: the file must be called the same")
    return entry


def parse_entry(content: Mapping[str, Any]) -> Entry:
    """An entry from a file's content. Raises TypeError, ValueError or KeyError."""
    known = {field.name for field in fields(Entry)} - {"versions", "catches"}
    _only(content, known | {"since", "before", "catch"}, "the entry")
    hand = content.get("by_hand", {})
    _only(hand, {"guest", "commands", "see"}, "by_hand")
    return Entry(
        id=_text(content["id"]),
        title=_text(content["title"]),
        symptom=_text(content["symptom"]),
        how=_text(content["how"]),
        versions=_versions(content),
        catches=tuple(_catch(table) for table in content.get("catch", [])),
        fix=_text(content.get("fix", "")),
        fixed_in=_text(content.get("fixed_in", "")),
        by_hand=ByHand(
            _texts(hand.get("guest", [])),
            _text(hand.get("commands", "")),
            _text(hand.get("see", "")),
        ),
        append=_text(content.get("append", "")),
        uncaught=_text(content.get("uncaught", "")),
    )


def select(entries: Sequence[Entry], ids: Iterable[str]) -> tuple[Entry, ...]:
    """The entries called `ids`, all for none. Raises UsageError for one that there is not."""
    wanted = tuple(dict.fromkeys(ids))
    by_id = {entry.id: entry for entry in entries}
    if unknown := [name for name in wanted if name not in by_id]:
        raise UsageError(
            f"no bug called {unknown[0]!r} in the catalogue", hint=f"use {', '.join(by_id)}"
        )
    return tuple(by_id[name] for name in wanted) if wanted else tuple(entries)


def _catch(table: Mapping[str, Any]) -> Catch:
    _only(table, {"tests", "signals", "cause", "since", "before"}, "catch")
    re.compile(table.get("cause", ""))
    return Catch(
        _texts(table["tests"]),
        frozenset(_texts(table.get("signals", []))),
        _text(table.get("cause", "")),
        _versions(table),
    )


def _versions(table: Mapping[str, Any]) -> VersionRange:
    since, before = (Version.parse(table[end]) if end in table else None for end in _ENDS)
    return VersionRange(since, before)


_ENDS = ("since", "before")


def _only(table: Mapping[str, Any], known: set[str], where: str) -> None:
    if unknown := table.keys() - known:
        raise ValueError(f"{where} has no key {', '.join(sorted(unknown))}")


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not text")
    return " ".join(value.split()) if "\n" not in value.strip() else value.strip()


def _texts(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
        raise TypeError(f"{value!r} is not a list of texts")
    return tuple(value)
