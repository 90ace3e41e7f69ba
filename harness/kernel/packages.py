# SPDX-License-Identifier: MIT
"""Debian packages fetched without root and unpacked once, usable without a network later.

Suite after suite is asked until one has what is wanted; the answer is remembered, so that the same
packages serve when nothing newer can be asked for.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from harness.base.progress import Progress
from harness.base.status import HostError
from harness.base.store import Store, digest_file, digest_of
from harness.kernel import apt
from harness.kernel.tree import write_json

_UNPACK_DEADLINE_S = 600


@dataclass(frozen=True)
class PackageRecord:
    """One package exactly."""

    package: str
    version: str
    sha256: str
    suite: str

    @property
    def candidate(self) -> apt.Candidate:
        return apt.Candidate(self.package, self.version, self.suite)


@dataclass(frozen=True)
class Wanted:
    """What to look for in the archives, and what to make of it."""

    name: str
    """Unique: under it the answer is remembered."""
    kind: str
    """Of the store's entry."""
    recipe: str
    """Changes when `unpack` makes something else of the same packages."""
    choose: Callable[[apt.Apt], Sequence[apt.Candidate]]
    """The packages that these archives offer; none: the next suite is asked."""
    unpack: Callable[[Sequence[Path], Path, Progress], None]
    """From package files to the content of the entry's directory; may remove the files."""
    absent: Callable[[str], HostError]
    """The error where no suite has it, from the names of those that were searched."""
    suite: str = ""
    """The only suite to look in; empty: all, in apt.search_order()."""
    archive: type[apt.Apt] = apt.Apt
    """Of binary or of source packages."""

    def digest(self, records: Sequence[PackageRecord]) -> str:
        """Names the entry."""
        facts = (fact for r in records for fact in (r.package, r.version, r.sha256))
        return digest_of(self.recipe, *facts)


@dataclass(frozen=True)
class Unpacked:
    """An entry of the store and the packages that it is made of."""

    directory: Path
    records: tuple[PackageRecord, ...]


def fetch(wanted: Wanted, store: Store, progress: Progress) -> Unpacked:
    """The newest packages, unpacked; the last ones used if nothing newer can be asked for.

    Raises `wanted.absent` where no suite has them, HostError where they cannot be fetched.
    """
    memory = _memory(wanted, store)
    with store.lock("apt", waiting=lambda: progress("wait", 0, None, "another apt is running")):
        last = held(wanted, store)
        if last and time.time() - memory.stat().st_mtime < apt.LISTS_MAX_AGE_S:
            return _unpacked(wanted, last.records, store, progress)
        try:
            found = _newest(wanted, store, progress)
        except HostError as error:
            if not last:
                raise
            versions = " ".join(dict.fromkeys(record.version for record in last.records))
            progress("lists", 0, None, f"{error.cause}: using {versions} from the cache")
            return _unpacked(wanted, last.records, store, progress)
        write_json(memory, [asdict(record) for record in found.records])
        return found


def held(wanted: Wanted, store: Store) -> Unpacked | None:
    """The result of the last `fetch`, if the store still has it. Asks nobody."""
    known = _remembered(_memory(wanted, store))
    directory = store.path(wanted.kind, wanted.digest(known))
    return Unpacked(directory, known) if known and directory.is_dir() else None


def _memory(wanted: Wanted, store: Store) -> Path:
    return store.work("apt") / f"{wanted.name}.json"


def _remembered(memory: Path) -> tuple[PackageRecord, ...]:
    try:
        return tuple(PackageRecord(**record) for record in json.loads(memory.read_text()))
    except (OSError, ValueError, TypeError):
        return ()


def _newest(wanted: Wanted, store: Store, progress: Progress) -> Unpacked:
    records, source = _resolve(wanted, store, progress, apt.LISTS_MAX_AGE_S)
    try:
        return _unpacked(wanted, records, store, progress, source)
    except HostError:
        # The mirror may have replaced a package since the lists were fetched.
        fresh, source = _resolve(wanted, store, progress, 0)
        if fresh == records:
            raise
        return _unpacked(wanted, fresh, store, progress, source)


def _resolve(
    wanted: Wanted, store: Store, progress: Progress, max_age_s: float
) -> tuple[tuple[PackageRecord, ...], apt.Apt]:
    """Ask suite after suite; the first that has it decides, with its newest version."""
    steps = apt.machine_steps(wanted.suite)
    for step in steps:
        source = wanted.archive(store.work("apt"), step)
        note = f"package lists of {step.name}"
        source.update(lambda done, n=note: progress("lists", done, 100, n), max_age_s)  # type: ignore[misc]
        if candidates := wanted.choose(source):
            records = (
                PackageRecord(c.package, c.version, source.sha256(c), c.suite) for c in candidates
            )
            return tuple(records), source
    raise wanted.absent(
        ", ".join(step.name for step in steps) or "none (no archive of this release)"
    )


def _unpacked(
    wanted: Wanted,
    records: Sequence[PackageRecord],
    store: Store,
    progress: Progress,
    source: apt.Apt | None = None,
) -> Unpacked:
    def build(directory: Path) -> None:
        assert source, "an entry that is held is not built"
        files = [_download(source, record, directory, progress) for record in records]
        wanted.unpack(files, directory, progress)

    directory = store.fetch(wanted.kind, wanted.digest(records), build)
    return Unpacked(directory, tuple(records))


def _download(source: apt.Apt, record: PackageRecord, directory: Path, progress: Progress) -> Path:
    def percent(done: int) -> None:
        progress("download", done, 100, f"{record.package} {record.version} ({record.suite})")

    file = source.download(record.candidate, directory, percent)
    if digest_file(file) != record.sha256:
        raise HostError(f"{file.name} does not have the SHA-256 that the package lists give")
    return file


def unpack_files(package: Path, directory: Path, wanted: Callable[[PurePosixPath], bool]) -> None:
    """Write the regular files of a .deb whose paths are `wanted` below `directory`.

    Links, devices and owners are left out. Raises HostError for a damaged package, and for one with
    a path that leaves the directory, of which nothing is to be believed.
    """
    with tempfile.TemporaryFile(dir=directory) as data:
        try:
            _contents(package, data)
            with tarfile.open(fileobj=data) as tar:
                _write_files(tar, package.name, directory, wanted)
        except (tarfile.TarError, OSError, subprocess.TimeoutExpired) as error:
            raise HostError(f"{package.name} cannot be unpacked: {error}") from error


def _contents(package: Path, data: IO[bytes]) -> None:
    done = subprocess.run(
        ["dpkg-deb", "--fsys-tarfile", str(package)],
        stdin=subprocess.DEVNULL,
        stdout=data,
        stderr=subprocess.PIPE,
        timeout=_UNPACK_DEADLINE_S,
        check=False,
    )
    if done.returncode:
        raise HostError(
            f"dpkg-deb could not unpack {package.name}",
            details=done.stderr.decode(errors="replace").splitlines()[-5:],
        )
    data.seek(0)


def _write_files(
    tar: tarfile.TarFile, package: str, directory: Path, wanted: Callable[[PurePosixPath], bool]
) -> None:
    members = [(PurePosixPath(member.name), member) for member in tar]
    for path, _ in members:
        if path.is_absolute() or ".." in path.parts:
            raise HostError(f"{package} is not sound: it holds the path {str(path)!r}")
    for path, member in members:
        content = tar.extractfile(member) if member.isreg() and wanted(path) else None
        if content is None:
            continue
        target = directory / path
        target.parent.mkdir(parents=True, exist_ok=True)
        with content, target.open("wb") as out:
            shutil.copyfileobj(content, out)
