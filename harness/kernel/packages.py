# SPDX-License-Identifier: MIT
"""Debian packages fetched without root and unpacked once, usable without a network later."""

import functools
import shutil
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath

from harness.base.progress import Progress
from harness.base.reader import read_json
from harness.base.status import HostError, UsageError
from harness.base.store import Store, digest_of
from harness.kernel import apt
from harness.kernel.tree import write_json

_UNPACK_DEADLINE_S = 600


class PackageNotFoundError(HostError):
    """No suite that was searched has it: callers may skip."""


@dataclass(frozen=True)
class PackageRecord(apt.Candidate):
    sha256: str


@dataclass(frozen=True)
class Wanted:
    """What to look for in the archives, and what to make of it."""

    name: str
    """Unique: under it the answer is remembered."""
    kind: str
    recipe: str
    """Changes when `unpack` makes something else of the same packages."""
    choose: Callable[[apt.Apt], Sequence[apt.Candidate | None]]
    """The packages that these archives offer; none: the next suite is asked."""
    unpack: Callable[[Sequence[Path], Path, Progress], None]
    """From package files to the content of the entry's directory; may remove the files."""
    absent: str
    """What no suite has, in words, where none has it; and what to do then."""
    hint: str = ""
    suite: str = ""
    """The only suite to look in; empty: all, in apt.search_order()."""
    archive: type[apt.Apt] = apt.Apt
    """Of binary or of source packages."""

    def digest(self, records: Sequence[PackageRecord]) -> str:
        facts = (fact for r in records for fact in (r.package, r.version, r.sha256))
        return digest_of(self.recipe, *facts)


@dataclass(frozen=True)
class Unpacked:
    """An entry of the store and the packages that it is made of."""

    directory: Path
    records: tuple[PackageRecord, ...]


def fetch(wanted: Wanted, store: Store, progress: Progress) -> Unpacked:
    """The newest packages, unpacked; the last ones used if nothing newer can be asked for. Raises
    PackageNotFoundError where no suite has them, HostError where they cannot be fetched."""
    memory = _memory(wanted, store)
    with store.lock("apt", waiting=lambda: progress("wait", 0, None, "another apt is running")):
        last = held(wanted, store)
        if not last or time.time() - memory.stat().st_mtime >= apt.LISTS_MAX_AGE_S:
            try:
                found = _newest(wanted, store, progress)
                write_json(memory, [asdict(record) for record in found.records])
                return found
            except HostError as error:
                if not last:
                    raise
                versions = " ".join(dict.fromkeys(record.version for record in last.records))
                progress("lists", 0, None, f"{error.cause}: using {versions} from the cache")
        store.mark_used(last.directory)
        return last


def held(wanted: Wanted, store: Store) -> Unpacked | None:
    """The result of the last `fetch`, if the store still has it. Asks nobody."""
    try:
        known = read_json(_memory(wanted, store), tuple[PackageRecord, ...])
    except UsageError:
        return None
    directory = store.path(wanted.kind, wanted.digest(known))
    return Unpacked(directory, known) if known and directory.is_dir() else None


def _memory(wanted: Wanted, store: Store) -> Path:
    return store.work("apt") / f"{wanted.name}.json"


def _newest(wanted: Wanted, store: Store, progress: Progress) -> Unpacked:
    records, source = _resolve(wanted, store, progress, apt.LISTS_MAX_AGE_S)

    def build(directory: Path) -> None:
        files = []
        for record in records:
            note = f"{record.package} {record.version} ({record.suite})"
            percent = functools.partial(progress, "download", total=100, note=note)
            files.append(source.download(record, directory, percent))
        wanted.unpack(files, directory, progress)

    try:
        return Unpacked(store.fetch(wanted.kind, wanted.digest(records), build), records)
    except HostError:
        # The mirror may have replaced a package since the lists were fetched.
        tried = records
        records, source = _resolve(wanted, store, progress, 0)
        if records == tried:
            raise
        return Unpacked(store.fetch(wanted.kind, wanted.digest(records), build), records)


def _resolve(
    wanted: Wanted, store: Store, progress: Progress, max_age_s: float
) -> tuple[tuple[PackageRecord, ...], apt.Apt]:
    """Ask suite after suite; the first that has it decides, with its newest version."""
    steps = apt.machine_steps(wanted.suite)
    for step in steps:
        source = wanted.archive(store.work("apt"), step)
        note = f"package lists of {step.name}"
        source.update(functools.partial(progress, "lists", total=100, note=note), max_age_s)
        if candidates := [candidate for candidate in wanted.choose(source) if candidate]:
            records = (
                PackageRecord(c.package, c.version, c.suite, source.sha256(c)) for c in candidates
            )
            return tuple(records), source
    searched = ", ".join(step.name for step in steps) or "none (no archive of this release)"
    raise PackageNotFoundError(f"{wanted.absent}; suites searched: {searched}", hint=wanted.hint)


def unpack_files(package: Path, directory: Path, wanted: Callable[[PurePosixPath], bool]) -> None:
    """Write the regular files of a .deb whose paths are `wanted` below `directory`. Raises
    HostError for a damaged package, and for one with a path that leaves the directory."""
    argv = ["dpkg-deb", "--fsys-tarfile", str(package)]
    with tempfile.TemporaryFile(dir=directory) as data:
        try:
            done = subprocess.run(
                argv,
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
            with tarfile.open(fileobj=data) as tar:
                _write_files(tar, package.name, directory, wanted)
        except (tarfile.TarError, OSError, subprocess.TimeoutExpired) as error:
            raise HostError(f"{package.name} cannot be unpacked: {error}") from error


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
