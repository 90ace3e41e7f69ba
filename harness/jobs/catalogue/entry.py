# SPDX-License-Identifier: MIT
"""One known bug as data: where it comes from, how it is brought back, what has to catch it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path

from harness.base.reader import FileType, read_toml
from harness.base.status import UsageError
from harness.kernel.version import Ranged, Version

ENTRIES = Path(__file__).parent / "entries"
FRAGMENT = "bugs"
"""The configuration fragment whose kernel has all the bugs in it, each switched off."""
PARAMETER = "unaccepted_bug"
"""The kernel's boot parameter that switches one on (the carried patch known-bugs)."""

_ID = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*")


class Catch(Ranged, frozen=True):
    """Tests that have to FAIL while the bug is on, and what they have to fail for."""

    tests: tuple[str, ...]
    """pytest node ids, relative to the project's root."""
    signals: frozenset[str] = frozenset()
    """Signals (docs/suite.md) that stand for this bug; one of them is enough."""
    cause: str = ""
    """Where no signal says it (a guest that does not boot): a pattern for the verdict's cause."""

    def __post_init__(self) -> None:
        super().__post_init__()
        try:
            re.compile(self.cause)
        except re.error as error:
            raise ValueError(f"cause is no pattern: {error}") from error
        if not self.tests or not (self.signals or self.cause):
            raise ValueError("a catch names tests, and signals or a cause")


class ByHand(FileType, frozen=True):
    """How to see the bug without the suite."""

    guest: tuple[str, ...] = ()
    """Options of `cvm-harness boot`, one string each: "--memory=2G"."""
    commands: str = ""
    """Shell commands to give in the guest; empty: booting is enough."""
    see: str = ""
    """What is seen with the bug on, and what without."""

    def command_line(self, entry: BugEntry, kernel: str) -> str:
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


class BugEntry(Ranged, frozen=True, rename={"catches": "catch"}):
    """One bug of the catalogue. `versions` are the kernels that have the switch."""

    id: str
    """As in the boot parameter."""
    title: str
    symptom: str
    how: str
    """How the switch brings the bug back."""
    catches: tuple[Catch, ...] = ()
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
        super().__post_init__()
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


def load_entries(directory: Path = ENTRIES) -> tuple[BugEntry, ...]:
    """All entries, by id. Raises UsageError naming the file and what is wrong with it."""
    files = sorted(directory.glob("*.toml"))
    if not files:
        raise UsageError(f"no bug in {directory}", hint="an entry is a file ID.toml")
    return tuple(read_entry(file) for file in files)


def read_entry(file: Path) -> BugEntry:
    entry = read_toml(file, BugEntry, "docs/catalogue.md lists what an entry has")
    if entry.id != file.stem:
        raise UsageError(f"{file}: its id is {entry.id!r}: the file must be called the same")
    return entry


def select(entries: Sequence[BugEntry], ids: Iterable[str]) -> tuple[BugEntry, ...]:
    """The entries called `ids`, all for none. Raises UsageError for one that there is not."""
    wanted = tuple(dict.fromkeys(ids))
    by_id = {entry.id: entry for entry in entries}
    if unknown := [name for name in wanted if name not in by_id]:
        raise UsageError(
            f"no bug called {unknown[0]!r} in the catalogue", hint=f"use {', '.join(by_id)}"
        )
    return tuple(by_id[name] for name in wanted) if wanted else tuple(entries)
