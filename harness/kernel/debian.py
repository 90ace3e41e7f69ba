# SPDX-License-Identifier: MIT
"""The newest linux-source package of a series, unpacked once, usable without a network later."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from harness.base.guarded import run_guarded
from harness.base.progress import Progress
from harness.base.status import HostError
from harness.base.store import Store, digest_file, digest_of
from harness.kernel import apt
from harness.kernel.tree import Manifest, scan, write_json

_TYPICAL_FILES = 90_000
"""Files in a kernel source (6.12: 86,629), for the progress estimate."""


class SeriesNotFoundError(HostError):
    """No suite searched has the series: callers may skip."""


@dataclass(frozen=True)
class Record:
    """Exactly what a series came to."""

    package: str
    version: str
    sha256: str
    suite: str

    @property
    def digest(self) -> str:
        return digest_of("linux-source-1", self.package, self.version, self.sha256)

    @property
    def candidate(self) -> apt.Candidate:
        return apt.Candidate(self.package, self.version, self.suite)


@dataclass(frozen=True)
class Package:
    """An unpacked source package: `directory`/tree."""

    directory: Path
    record: Mapping[str, object]
    manifest: Manifest


def fetch(series: str, store: Store, progress: Progress) -> Package:
    """The newest package of `series`; the last one used if nothing newer can be asked for."""
    memory = store.work("apt") / f"series-{series}.json"
    with store.lock("apt", waiting=lambda: progress("wait", 0, None, "another apt is running")):
        known = _remembered(memory)
        held = known is not None and store.path("kernel-source", known.digest).is_dir()
        if known and held and time.time() - memory.stat().st_mtime < apt.LISTS_MAX_AGE_S:
            return _package(store, known, progress)
        try:
            record, package = _newest(series, store, progress)
        except HostError as error:
            if not (known and held):
                raise
            progress("lists", 0, None, f"{error.cause}: using {known.version} from the cache")
            return _package(store, known, progress)
        write_json(memory, asdict(record))
        return package


def _newest(series: str, store: Store, progress: Progress) -> tuple[Record, Package]:
    record, source = _resolve(series, store, progress, apt.LISTS_MAX_AGE_S)
    try:
        return record, _package(store, record, progress, source)
    except HostError:
        # The mirror may have replaced the package since the lists were fetched.
        fresh, source = _resolve(series, store, progress, 0)
        if fresh == record:
            raise
        return fresh, _package(store, fresh, progress, source)


def _remembered(memory: Path) -> Record | None:
    try:
        return Record(**json.loads(memory.read_text()))
    except (OSError, ValueError, TypeError):
        return None


def _resolve(
    series: str, store: Store, progress: Progress, max_age_s: float
) -> tuple[Record, apt.Apt]:
    """Ask suite after suite; the first that has the series decides, with its newest version."""
    distribution, codename = apt.os_release()
    steps = apt.search_order(apt.machine_stanzas(), distribution, codename)
    # Debian names the package linux-source-6.12, Ubuntu linux-source-6.8.0.
    names = (f"linux-source-{series}", f"linux-source-{series}.0")
    for step in steps:
        source = apt.Apt(store.work("apt"), step)
        note = f"package lists of {step.name}"
        source.update(lambda done, n=note: progress("lists", done, 100, n), max_age_s)  # type: ignore[misc]
        candidate = source.newest(names)
        if candidate:
            record = Record(
                candidate.package, candidate.version, source.sha256(candidate), candidate.suite
            )
            return record, source
    searched = ", ".join(step.name for step in steps) or "none (no archive of this release)"
    raise SeriesNotFoundError(
        f"no linux-source package for {series}; suites searched: {searched}",
        hint="choose another series, or give a kernel tree or git:repository@ref",
    )


def _package(
    store: Store, record: Record, progress: Progress, source: apt.Apt | None = None
) -> Package:
    def build(directory: Path) -> None:
        assert source, "an entry that is held is not built"
        _unpack(_download(source, record, directory, progress), directory, progress)

    directory = store.fetch("kernel-source", record.digest, build)
    manifest = json.loads((directory / "manifest.json").read_text())
    return Package(directory, asdict(record), manifest)


def _download(source: apt.Apt, record: Record, directory: Path, progress: Progress) -> Path:
    def percent(done: int) -> None:
        progress("download", done, 100, f"{record.package} {record.version} ({record.suite})")

    file = source.download(record.candidate, directory, percent)
    if digest_file(file) != record.sha256:
        raise HostError(f"{file.name} does not have the SHA-256 that the package lists give")
    return file


def _unpack(package: Path, directory: Path, progress: Progress) -> None:
    """package -> directory/tree, read-only files, and directory/manifest.json."""
    outer = directory / "package"
    tree = directory / "tree"
    tree.mkdir()
    _extract(["dpkg-deb", "-x", str(package), str(outer)], directory)
    package.unlink()
    tarballs = list(outer.glob("usr/src/**/linux-source-*.tar.*"))
    if len(tarballs) != 1:
        raise HostError(f"{package.name} does not hold one kernel source archive")
    count = 0

    def line(_: str) -> None:
        nonlocal count
        count += 1
        if count % 1000 == 0:
            progress("unpack", count, _TYPICAL_FILES, tarballs[0].name)

    arguments = ["--strip-components=1", "--no-same-owner", "-C", str(tree)]
    _extract(["tar", "-xvf", str(tarballs[0]), *arguments], directory, line)
    shutil.rmtree(outer)
    # Everything in the package is a source, so nothing is left out.
    manifest = scan(tree, exclude=False)
    for path, identity in manifest.items():
        # Work trees link to these files: whoever writes through a link shall fail.
        if not identity.startswith("120000"):
            (tree / path).chmod(0o555 if identity.startswith("100755") else 0o444)
    write_json(directory / "manifest.json", manifest)


def _extract(argv: list[str], cwd: Path, line: Callable[[str], None] | None = None) -> None:
    tail: list[str] = []

    def collect(text: str) -> None:
        tail.append(text)
        del tail[:-5]
        if line:
            line(text)

    if run_guarded(argv, cwd=cwd, env=os.environ | {"LC_ALL": "C"}, line=collect):
        raise HostError(f"{argv[0]} could not unpack {argv[2]}", details=tail)
