# SPDX-License-Identifier: MIT
"""A saved guest on disk: a manifest, the device state, one sparse file per memory backend, keys.

A snapshot lives for one boot of the host. Within it the memory files are known by inode, size and
change time, and the device state by its hash; whatever does not fit is not restored from.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from msgspec import Meta

from harness.base.reader import FileType, parse_json
from harness.base.status import UsageError
from harness.host.lease import host_boot_id
from harness.image.keys import LAYER, PRIVATE_KEY, Keys
from harness.record.boot import BootRecord
from harness.record.rundir import plain

SCHEMA: Final = 1
MANIFEST = "manifest.json"
STATE = "state.bin"
CONSOLE = "console.log"
KEYS = "keys"
_MAX_MANIFEST = 256 * 1024
_MAX_CONSOLE = 16 << 20


class BadSnapshot(ValueError):
    """What is there cannot be restored from; the text says why."""


class RamFile(FileType, frozen=True):
    """One memory backend's file, as it was when the template's QEMU had ended."""

    name: str
    """In the snapshot's directory."""
    size: int
    """Bytes: the guest's memory. The file is sparse."""
    inode: int
    mtime_ns: int
    ctime_ns: int


_Text = Annotated[str, Meta(min_length=1)]


class Manifest(FileType, frozen=True):
    """What a snapshot is, and what its template's boot left on record."""

    digest: _Text
    """Of everything that shaped the guest."""
    host_boot_id: _Text
    ram: Mapping[str, RamFile]
    """Backend id -> its file; empty if the memory is in the device state."""
    state_bytes: int
    state_sha256: _Text
    save_ns: int
    """Host time from stopping the template to the end of the device state."""
    stages_ns: Mapping[str, int]
    """The template's boot, each stage in host ns since its spawn."""
    init: Mapping[str, Any]
    """Fields of the template's "init" message; none if it has firmware only."""
    ready: Mapping[str, Any]
    """Fields of its "ready" message."""
    host_public_key: str
    """Empty, as the next, where there is no guest to log in to: it has firmware only."""
    authorized_key: str
    schema: Literal[1] = SCHEMA

    def __post_init__(self) -> None:
        if any(file.name != ram_name(backend) for backend, file in self.ram.items()):
            raise ValueError("it names files that no snapshot has")


def ram_name(backend: str) -> str:
    """The file of a memory backend."""
    return f"{backend}.bin"


def describe_ram(directory: Path, backend: str) -> RamFile:
    """The backend's file as it is now."""
    name = ram_name(backend)
    found = (directory / name).stat()
    return RamFile(name, found.st_size, found.st_ino, found.st_mtime_ns, found.st_ctime_ns)


def stages_since_spawn(boot: BootRecord) -> dict[str, int]:
    """Every stage that was reached, in ns since spawn."""
    return {stage: boot.since_spawn_ns(stage) for stage in boot.stages}


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """Make `directory` a snapshot."""
    (directory / MANIFEST).write_text(json.dumps(plain(manifest), indent=1) + "\n")


def parse_manifest(text: bytes) -> Manifest:
    """The manifest in a file's `text`. Raises BadSnapshot."""
    try:
        return parse_json(text, Manifest, "its manifest")
    except UsageError as error:
        raise BadSnapshot(error.cause) from error


class OpenSnapshot:
    """A snapshot that has been found good, held open: from here on nobody can take it away.

    A context manager; a guest may outlive it once QEMU has been spawned.
    """

    def __init__(self, directory: Path, digest: str) -> None:
        """Open and check. Raises BadSnapshot, saying what is wrong with it."""
        self.directory = directory
        with contextlib.ExitStack() as stack:
            self.manifest = parse_manifest(self._read(MANIFEST, _MAX_MANIFEST))
            self._refuse_foreign(digest)
            self.console = self._read(CONSOLE, _MAX_CONSOLE)
            self.state = self._open(stack, STATE)
            self._check_state()
            self.ram = {
                backend: self._open_ram(stack, backend, file)
                for backend, file in self.manifest.ram.items()
            }
            self._keys = {
                name: self._read(f"{KEYS}/{name}", 1 << 16)
                for name in (PRIVATE_KEY, LAYER)
                if self.manifest.authorized_key
            }
            self._stack = stack.pop_all()

    def __enter__(self) -> OpenSnapshot:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the descriptors. May be called more than once."""
        self._stack.close()

    def lend_keys(self, directory: Path) -> Keys:
        """A copy of the template's keys in `directory`, mode 0600."""
        known = self.manifest
        return Keys.restore(directory, self._keys, known.authorized_key, known.host_public_key)

    def _refuse_foreign(self, digest: str) -> None:
        if self.manifest.digest != digest:
            raise BadSnapshot(f"it is of another guest ({self.manifest.digest[:12]})")
        if self.manifest.host_boot_id != host_boot_id():
            raise BadSnapshot("it was made in another boot of the host, or on another host")

    def _check_state(self) -> None:
        size = os.fstat(self.state).st_size
        if size != self.manifest.state_bytes:
            raise BadSnapshot(f"its device state has {size} bytes, not {self.manifest.state_bytes}")
        with os.fdopen(os.dup(self.state), "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        os.lseek(self.state, 0, os.SEEK_SET)
        if digest != self.manifest.state_sha256:
            raise BadSnapshot("its device state has been changed")

    def _open_ram(self, stack: contextlib.ExitStack, backend: str, file: RamFile) -> int:
        descriptor = self._open(stack, file.name, os.O_RDWR)  # QEMU opens it so again
        found = os.fstat(descriptor)
        seen = RamFile(file.name, found.st_size, found.st_ino, found.st_mtime_ns, found.st_ctime_ns)
        if seen != file:
            raise BadSnapshot(f"its memory file {file.name} has been changed or replaced")
        return descriptor

    def _open(self, stack: contextlib.ExitStack, name: str, flags: int = os.O_RDONLY) -> int:
        try:
            descriptor = os.open(self.directory / name, flags | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            raise BadSnapshot(f"its {name} cannot be opened: {error.strerror}") from error
        stack.callback(os.close, descriptor)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise BadSnapshot(f"its {name} is not a file")
        return descriptor

    def _read(self, name: str, limit: int) -> bytes:
        with contextlib.ExitStack() as stack:
            descriptor = self._open(stack, name)
            with os.fdopen(os.dup(descriptor), "rb") as file:
                data = file.read(limit + 1)
        if len(data) > limit:
            raise BadSnapshot(f"its {name} is larger than {limit} bytes")
        return data
