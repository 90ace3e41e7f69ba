# SPDX-License-Identifier: MIT
"""A content-addressed store: digest of all inputs -> directory, built at most once under a lock and
published by rename, so that an entry exists whole or not at all."""

import contextlib
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import platformdirs
from filelock import FileLock, Timeout

from harness.base.status import HostError

_USED = ".last-used"


def default_root() -> Path:
    """$CVM_HARNESS_CACHE, or the user's cache directory."""
    override = os.environ.get("CVM_HARNESS_CACHE")
    return Path(override) if override else platformdirs.user_cache_path("cvm-harness")


def digest_of(*parts: object) -> str:
    """Hex SHA-256 of `parts` in canonical JSON. Paths must be turned to digests by the caller."""
    canonical = json.dumps(parts, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def digest_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True)
class Entry:
    """One published entry, for `gc`."""

    kind: str
    digest: str
    path: Path
    size: int
    last_used: float


class Store:
    """The store under one root directory. Safe for any number of processes at once."""

    def __init__(self, root: Path | None = None) -> None:
        self.root = root or default_root()

    def path(self, kind: str, digest: str) -> Path:
        """Where the entry is, or would be."""
        return self.root / "entries" / kind / digest

    def fetch(
        self,
        kind: str,
        digest: str,
        build: Callable[[Path], None],
        *,
        waiting: Callable[[], None] = lambda: None,
    ) -> Path:
        """The entry's directory, after `build(directory)` has filled it if it did not exist.
        `waiting` is called once if another process builds it. Raises HostError if the disk is
        full."""
        final = self.path(kind, digest)
        if not final.is_dir():
            with self.disk_full_is_named(), self.lock(f"{kind}-{digest}", waiting=waiting):
                if not final.is_dir():
                    temporary = self.root / "tmp" / f"{kind}-{digest}"
                    shutil.rmtree(temporary, ignore_errors=True)
                    temporary.mkdir(parents=True)
                    try:
                        build(temporary)
                        final.parent.mkdir(parents=True, exist_ok=True)
                        temporary.rename(final)
                    finally:
                        shutil.rmtree(temporary, ignore_errors=True)
        self.mark_used(final)
        return final

    @staticmethod
    def mark_used(entry: Path) -> None:
        """Make `entry` the one that was used last."""
        with contextlib.suppress(OSError):  # the mark only orders entries
            (entry / _USED).touch()

    def last_used(self, kind: str, fits: Callable[[Path], bool]) -> Path | None:
        """The most recently used of a kind's entries that fit."""
        entries = [path for path in (self.root / "entries" / kind).glob("*") if fits(path)]
        return max(entries, key=_used_at, default=None)

    @contextlib.contextmanager
    def disk_full_is_named(self) -> Iterator[None]:
        """Raise HostError in place of an OSError within that says that the disk is full."""
        try:
            yield
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise HostError(
                f"no space left on device under {self.root}",
                hint="cvm-harness gc, or set CVM_HARNESS_CACHE to a larger file system",
            ) from error

    @contextlib.contextmanager
    def lock(self, name: str, *, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
        """Hold the named lock (flock: the kernel drops it however the holder ends)."""
        path = self.root / "locks" / f"{name}.lock"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise HostError(
                f"cannot write the cache {self.root}: {error.strerror}",
                hint="set CVM_HARNESS_CACHE to a directory you can write",
            ) from error
        lock = FileLock(path)
        try:
            held = lock.acquire(timeout=0)
        except Timeout:
            waiting()
            held = lock.acquire()
        with held:
            yield

    def work(self, name: str) -> Path:
        """A mutable work area kept between builds (a kernel's object tree). Hold a lock to use."""
        path = self.root / "work" / name
        path.mkdir(parents=True, exist_ok=True)
        return path

    def keep_log(self, log: Path, name: str) -> Path:
        """Move the log of a build that failed to where it outlives its entry; its new place."""
        kept = self.root / "failed-builds" / f"{name}.log"
        kept.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(log, kept)
        return kept

    def entries(self) -> list[Entry]:
        """Every published entry, least recently used first."""
        found = []
        for directory in (self.root / "entries").glob("*/*"):
            with contextlib.suppress(FileNotFoundError):  # another process has removed it
                size, used = tree_size(directory), _used_at(directory)
                found.append(Entry(directory.parent.name, directory.name, directory, size, used))
        return sorted(found, key=lambda entry: entry.last_used)

    def remove(self, kind: str, digest: str) -> bool:
        """Remove one entry, whoever reads it. False if there is none, or it is being built."""
        path = self.path(kind, digest)
        return path.is_dir() and self._remove(f"{kind}-{digest}", path)

    def sweep(self, max_bytes: int, kind: str | None = None) -> list[Entry]:
        """Remove least recently used entries (of `kind`, if given) until `max_bytes` hold the rest,
        and dead leftovers; what a process has locked is passed over. Returns what was removed."""
        for leftover in (self.root / "tmp").glob("*"):
            self._remove(leftover.name, leftover)
        entries = [entry for entry in self.entries() if kind in (None, entry.kind)]
        total = sum(entry.size for entry in entries)
        removed = []
        for entry in entries:
            if total <= max_bytes:
                break
            if self._remove(f"{entry.kind}-{entry.digest}", entry.path):
                total -= entry.size
                removed.append(entry)
        return removed

    def _remove(self, lock_name: str, directory: Path) -> bool:
        try:
            with FileLock(self.root / "locks" / f"{lock_name}.lock", timeout=0):
                doomed = self.root / "tmp" / lock_name
                doomed.parent.mkdir(parents=True, exist_ok=True)
                if directory != doomed:  # from here on nobody can find it half removed
                    directory.rename(doomed)
                shutil.rmtree(doomed, ignore_errors=True)
        except (Timeout, OSError):
            return False
        return True


def _used_at(directory: Path) -> float:
    used = directory / _USED
    return (used if used.exists() else directory).stat().st_mtime


def tree_size(directory: Path) -> int:
    """Bytes that the regular files under `directory` take on disk."""
    total = 0
    for path in directory.rglob("*"):
        with contextlib.suppress(OSError):  # removed under our feet
            total += path.lstat().st_blocks * 512
    return total
