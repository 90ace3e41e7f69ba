# SPDX-License-Identifier: MIT
"""The newest kernel of a series from a distribution's packages: its source, or as it was built."""

import os
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path, PurePosixPath

from harness.base.guarded import run_guarded
from harness.base.progress import Progress
from harness.base.status import HostError
from harness.base.store import Store
from harness.kernel import apt, packages
from harness.kernel.kernel import Kernel, KernelRequest
from harness.kernel.make import host_fault
from harness.kernel.prebuilt import check_unchanged, prebuilt
from harness.kernel.tree import LINK, PROGRAM, scan, write_json

_TYPICAL_FILES = 90_000
"""Files in a kernel source (6.12: 86,629), for the progress estimate."""
_IMAGE = "linux-image-"
_USUAL = ("amd64", "generic")
"""The flavours of Debian and Ubuntu that are meant where none is named."""
_PLACES = ("boot", "lib/modules", "usr/lib/modules")


class DamagedError(HostError):
    """An archive cannot be unpacked."""


def fetch_source(series: str, store: Store, progress: Progress) -> packages.Unpacked:
    """The newest source package of `series`, unpacked as by `unpack_tarball`; the last one used if
    nothing newer can be asked for. Raises as `packages.fetch`."""
    # Debian names the package linux-source-6.12, Ubuntu linux-source-6.8.0.
    names = (f"linux-source-{series}", f"linux-source-{series}.0")
    wanted = packages.Wanted(
        names[0],
        "kernel-source",
        "linux-source-1",
        lambda archives: [archives.newest(names)],
        _unpack_source,
        f"no linux-source package for {series}",
        "choose another series, or give a kernel tree or git:repository@ref",
    )
    return packages.fetch(wanted, store, progress)


def _unpack_source(files: Sequence[Path], directory: Path, progress: Progress) -> None:
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


def _extract(argv: list[str], cwd: Path, line: Callable[[str], None] = lambda text: None) -> None:
    tail: list[str] = []

    def collect(text: str) -> None:
        tail.append(text)
        del tail[:-5]
        line(text)

    if run_guarded(argv, cwd=cwd, env=os.environ | {"LC_ALL": "C"}, line=collect):
        raise host_fault(tail, f"unpacking {argv[2]}") or DamagedError(
            f"{argv[0]} could not unpack {argv[2]}", details=tail
        )


def binary_kernel(
    series: str, flavour: str, request: KernelRequest, store: Store, progress: Progress
) -> Kernel:
    """The newest kernel of `series`, fetched if the store has none as new. Raises as
    `packages.fetch`, and UsageError for a `request` that asks for changes."""
    check_unchanged(request)
    name = f"{series}-{flavour}" if flavour else series
    wanted = packages.Wanted(
        _IMAGE + name,
        "kernel-binary",
        "linux-image-1",
        lambda archives: _choose(series, flavour, archives),
        _unpack_binary,
        f"no linux-image package for {name}",
        f"choose another series or flavour, or give a bzImage; debian:{series} builds one from "
        "source",
    )
    found = packages.fetch(wanted, store, progress)
    images = [
        *found.directory.glob("boot/vmlinuz-*"),
        *found.directory.glob("**/lib/modules/*/vmlinuz"),
    ]
    if len(images) != 1:
        names = ", ".join(record.package for record in found.records)
        raise HostError(f"{len(images)} kernel images in {names}, where one was expected")
    facts = {"kind": "debian-binary", "packages": [asdict(record) for record in found.records]}
    return prebuilt(images[0], request, store, facts)


def image_packages(names: Sequence[str], series: str, flavour: str) -> list[str]:
    """Those of the package `names` that hold a kernel of the series and flavour: exact releases,
    neither metapackages (linux-image-6.12-amd64), nor symbols (-dbg), nor what nobody signed."""
    usual = "|".join(_USUAL)
    kind = rf"{flavour}(?:-(?:{usual}))?" if flavour else f"(?:{usual})"
    release = rf"{re.escape(series)}\.\d+[^-]*(?:-\d+)?-{kind}"
    return [name for name in names if re.fullmatch(_IMAGE + release, name)]


def _choose(series: str, flavour: str, archives: apt.Apt) -> list[apt.Candidate]:
    """The image's package, with all of its dependencies whose names end in the same release.

    Debian packs a kernel in one package (linux-image-6.12.117+deb13-amd64), from 7.1 on in several
    of which that one is empty and depends on the others (linux-binary-…, linux-base-…,
    linux-modules-…); Ubuntu packs the modules apart.
    """
    names = image_packages(archives.names(f"{_IMAGE}{series}."), series, flavour)
    image = archives.newest(names) if names else None
    if image is None:
        return []
    release = image.package.removeprefix(_IMAGE)
    chosen = {image.package: image}
    waiting = [image]
    while waiting:
        for name in archives.depends(waiting.pop()):
            if name.endswith(f"-{release}") and name not in chosen:
                needed = archives.newest([name])
                if needed is None:
                    raise HostError(f"{image.package} needs {name}, which its archive lacks")
                chosen[name] = needed
                waiting.append(needed)
    return list(chosen.values())


def _unpack_binary(files: Sequence[Path], directory: Path, progress: Progress) -> None:
    def belongs(path: PurePosixPath) -> bool:
        return any(path.is_relative_to(place) for place in _PLACES)

    for number, file in enumerate(files):
        progress("unpack", number, len(files), file.name)
        packages.unpack_files(file, directory, belongs)
        file.unlink()
