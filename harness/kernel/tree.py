# SPDX-License-Identifier: MIT
"""What is in a source tree: a manifest of git blob ids, and the means to read the blobs."""

import contextlib
import fnmatch
import functools
import hashlib
import json
import os
import re
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.base.progress import Progress
from harness.base.reader import read_json
from harness.base.status import HostError, UsageError
from harness.base.store import Store, digest_of
from harness.kernel.version import Version

# Directories, commits and unpacked packages all become the same manifest: equal content has an
# equal digest whichever door it came through, and a work tree is brought from any tree to any other
# by touching only the files that differ. A bare repository would do the same with less code, and
# costs more where a source is new (86,691 files of 6.12, git 2.39, CPU seconds): scan 7, linked
# copy 7; git add 22, git read-tree -u 11, and 1.7 GB of objects.
Manifest = Mapping[str, str]
"""path -> "mode id", e.g. "mm/util.c" -> "100644 8bc1...". Modes are git's: FILE, PROGRAM and
LINK (whose blob is its target)."""

FILE, PROGRAM, LINK = "100644", "100755", "120000"


def _any_of(*patterns: str) -> re.Pattern[str]:
    return re.compile("|".join(map(fnmatch.translate, patterns)))


# What the kernel's `make` looks at before it calls a source tree "not clean", and objects.
# vmlinux.lds.S and friends below are sources: those patterns hold for the top only.
_ARTEFACTS = _any_of(
    *("*.o", "*.a", "*.ko", "*.mod", "*.cmd", ".config", ".config.old", ".tmp_*", ".git")
)
_TOP_ARTEFACTS = _any_of("vmlinux*", "System.map", "Module.symvers", "modules.*", "obj")
_GENERATED = _any_of("include/config", "include/generated", "arch/*/include/generated")


Reader = Callable[[Iterable[str]], Iterator[tuple[str, bytes]]]
"""Gives each of the paths with its content, in order."""


@dataclass(frozen=True)
class SourceTree:
    """A kernel's (or QEMU's) source as the build sees it."""

    manifest: Manifest
    read: Reader
    version: Version
    family: str
    """Names what successive builds have in common, so that they share one object tree."""
    provenance: Mapping[str, object]
    linkable: Path | None = None
    """Where the files lie if they never change, so that they may be linked and not copied."""
    product: str = "kernel"
    """What it is the source of, for messages."""

    @property
    def digest(self) -> str:
        """Identity of the content: hex SHA-256 over the sorted manifest."""
        total = hashlib.sha256()
        for path in sorted(self.manifest):
            total.update(os.fsencode(f"{self.manifest[path]}\t{path}\0"))
        return total.hexdigest()


def blob_id(data: bytes) -> str:
    """git's SHA-1 name for `data` (gitformat: "blob <length>\\0<data>")."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def link_target(link: Path) -> bytes:
    """What a symbolic link holds, byte for byte (Path.readlink() would tidy it)."""
    return os.fsencode(os.readlink(link))  # noqa: PTH115


def mode_of(info: os.stat_result) -> str:
    """git's mode of a regular file."""
    return PROGRAM if info.st_mode & 0o100 else FILE


def read_file(file: Path) -> tuple[str, bytes]:
    """The mode and content of a file or link."""
    if file.is_symlink():
        return LINK, link_target(file)
    return mode_of(file.stat()), file.read_bytes()


def put_file(target: Path, mode: str, data: bytes) -> None:
    """Make `target` that file or link, in one step, and always a new inode."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(target.name + ".sync")
    temporary.unlink(missing_ok=True)
    if mode == LINK:
        temporary.symlink_to(os.fsdecode(data))
    else:
        temporary.write_bytes(data)
        temporary.chmod(0o755 if mode == PROGRAM else 0o644)
    temporary.replace(target)


def read_directory(root: Path, paths: Iterable[str]) -> Iterator[tuple[str, bytes]]:
    """The files below `root`."""
    for path in paths:
        file = root / path
        try:
            _, data = read_file(file)
        except OSError as error:
            raise HostError(
                f"{file} could not be read: {error.strerror}",
                hint="was the tree changed while it was read? run again",
            ) from error
        yield path, data


def scan(
    root: Path,
    cache: Path | None = None,
    *,
    exclude: bool = True,
    leave_out: Sequence[str] = (),
    seen: Callable[[int], None] = lambda count: None,
) -> dict[str, str]:
    """The manifest of a directory that is no git work tree.

    `cache` keeps ids by size, times and inode between calls, so that only changed files are read.
    What a kernel build leaves behind is left out with `exclude`, and in any case what the patterns
    `leave_out` match. `seen` gets running counts.
    """
    known: dict[str, list[Any]] = {}
    if cache:
        with contextlib.suppress(UsageError):
            known = read_json(cache, dict[str, list[Any]])
    fresh: dict[str, list[object]] = {}
    manifest = {}
    started_ns = time.time_ns()
    for path, info in _walk(root, "", exclude, leave_out):
        if stat.S_ISLNK(info.st_mode):
            manifest[path] = f"{LINK} {blob_id(link_target(root / path))}"
            continue
        key: list[object] = [info.st_size, info.st_mtime_ns, info.st_ctime_ns, info.st_ino]
        entry = known.get(path)
        name = entry[4] if entry and entry[:4] == key else blob_id((root / path).read_bytes())
        # A file written within the clock's grain of this scan may change again unseen.
        if started_ns - info.st_ctime_ns > 2_000_000_000:
            fresh[path] = [*key, name]
        manifest[path] = f"{mode_of(info)} {name}"
        if len(manifest) % 1000 == 0:
            seen(len(manifest))
    if cache and fresh != known:
        write_json(cache, fresh)
    return manifest


def scan_cached(
    root: Path, store: Store, progress: Progress, leave_out: Sequence[str] = ()
) -> dict[str, str]:
    """`scan` with a cache in the store."""
    progress("source", 0, None, f"looking at {root}")
    cache = store.work("scans") / f"{digest_of(str(root))}.json"
    seen = functools.partial(progress, "source", total=None, note=f"reading {root}")
    return scan(root, cache, leave_out=leave_out, seen=seen)


def write_json(path: Path, value: object) -> None:
    """Replace `path` by `value` in one step."""
    put_file(path, FILE, json.dumps(value, separators=(",", ":")).encode())


def _walk(
    root: Path, below: str, exclude: bool, leave_out: Sequence[str]
) -> Iterator[tuple[str, os.stat_result]]:
    with os.scandir(root / below) as entries:
        for entry in sorted(entries, key=lambda item: item.name):
            path = f"{below}/{entry.name}" if below else entry.name
            if exclude and (
                _ARTEFACTS.match(entry.name)
                or _GENERATED.match(path)
                or (not below and _TOP_ARTEFACTS.match(path))
            ):
                continue
            if any(fnmatch.fnmatchcase(path, pattern) for pattern in leave_out):
                continue
            if entry.is_dir(follow_symlinks=False):
                yield from _walk(root, path, exclude, leave_out)
            elif entry.is_file(follow_symlinks=False) or entry.is_symlink():
                yield path, entry.stat(follow_symlinks=False)
