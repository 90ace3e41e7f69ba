# SPDX-License-Identifier: MIT
"""The newest linux-source package of a series, unpacked once, usable without a network later."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from harness.base.guarded import run_guarded
from harness.base.progress import Progress
from harness.base.status import HostError
from harness.base.store import Store
from harness.kernel import apt, packages
from harness.kernel.make import host_fault
from harness.kernel.tree import LINK, PROGRAM, Manifest, scan, write_json

_TYPICAL_FILES = 90_000
"""Files in a kernel source (6.12: 86,629), for the progress estimate."""


class DamagedError(HostError):
    """An archive cannot be unpacked."""


class SeriesNotFoundError(HostError):
    """No suite searched has the series: callers may skip."""


@dataclass(frozen=True)
class Package:
    """An unpacked source package: `directory`/tree."""

    directory: Path
    record: Mapping[str, object]
    manifest: Manifest


def fetch(series: str, store: Store, progress: Progress) -> Package:
    """The newest package of `series`; the last one used if nothing newer can be asked for.

    Raises SeriesNotFoundError where no suite has it, HostError where it cannot be fetched.
    """

    def choose(source: apt.Apt) -> list[apt.Candidate]:
        # Debian names the package linux-source-6.12, Ubuntu linux-source-6.8.0.
        newest = source.newest((f"linux-source-{series}", f"linux-source-{series}.0"))
        return [newest] if newest else []

    def absent(searched: str) -> HostError:
        return SeriesNotFoundError(
            f"no linux-source package for {series}; suites searched: {searched}",
            hint="choose another series, or give a kernel tree or git:repository@ref",
        )

    wanted = packages.Wanted(
        f"linux-source-{series}", "kernel-source", "linux-source-1", choose, _unpack, absent
    )
    found = packages.fetch(wanted, store, progress)
    manifest = json.loads((found.directory / "manifest.json").read_text())
    (record,) = found.records
    return Package(found.directory, asdict(record), manifest)


def _unpack(files: Sequence[Path], directory: Path, progress: Progress) -> None:
    """package -> directory/tree, read-only files, and directory/manifest.json."""
    (package,) = files
    outer = directory / "package"
    _extract(["dpkg-deb", "-x", str(package), str(outer)], directory)
    package.unlink()
    tarballs = list(outer.glob("usr/src/**/linux-source-*.tar.*"))
    if len(tarballs) != 1:
        raise HostError(f"{package.name} does not hold one kernel source archive")
    unpack_tarball(tarballs[0], directory, progress, typical_files=_TYPICAL_FILES)
    shutil.rmtree(outer)


def unpack_tarball(
    tarball: Path,
    directory: Path,
    progress: Progress,
    *,
    typical_files: int,
    leave_out: Sequence[str] = (),
) -> None:
    """tarball -> directory/tree, read-only files, and directory/manifest.json.

    What the patterns `leave_out` (tar(1), --exclude) match stays in the tarball. Raises HostError,
    DamagedError if it is no whole tarball.
    """
    tree = directory / "tree"
    tree.mkdir()
    count = 0

    def line(_: str) -> None:
        nonlocal count
        count += 1
        if count % 1000 == 0:
            progress("unpack", count, typical_files, tarball.name)

    arguments = ["--strip-components=1", "--no-same-owner", "-C", str(tree)]
    arguments += [f"--exclude={pattern}" for pattern in leave_out]
    _extract(["tar", "-xvf", str(tarball), *arguments], directory, line)
    # Everything in the tarball is a source, so nothing is left out of the manifest.
    manifest = scan(tree, exclude=False)
    for path, identity in manifest.items():
        # Work trees link to these files: whoever writes through a link shall fail.
        if not identity.startswith(LINK):
            (tree / path).chmod(0o555 if identity.startswith(PROGRAM) else 0o444)
    write_json(directory / "manifest.json", manifest)


def _extract(argv: list[str], cwd: Path, line: Callable[[str], None] | None = None) -> None:
    tail: list[str] = []

    def collect(text: str) -> None:
        tail.append(text)
        del tail[:-5]
        if line:
            line(text)

    if run_guarded(argv, cwd=cwd, env=os.environ | {"LC_ALL": "C"}, line=collect):
        raise host_fault(tail, f"unpacking {argv[2]}") or DamagedError(
            f"{argv[0]} could not unpack {argv[2]}", details=tail
        )
