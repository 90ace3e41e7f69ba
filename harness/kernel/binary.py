# SPDX-License-Identifier: MIT
"""The newest kernel of a series as a distribution ships it: image, configuration and modules.

Debian packs a kernel in one package (linux-image-6.12.117+deb13-amd64), from 7.1 on in several of
which that one is empty and depends on the others (linux-binary-…, linux-base-…, linux-modules-…);
Ubuntu packs the modules apart. So what is fetched is the image's package with all of its
dependencies whose names end in the same release.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path, PurePosixPath

from harness.base.progress import Progress
from harness.base.status import HostError
from harness.base.store import Store
from harness.kernel import apt, packages
from harness.kernel.debian import SeriesNotFoundError
from harness.kernel.kernel import Kernel, KernelRequest
from harness.kernel.prebuilt import check_unchanged, prebuilt
from harness.kernel.source import BinarySource

_IMAGE = "linux-image-"
_USUAL = ("amd64", "generic")
"""The flavours of Debian and Ubuntu that are meant where none is named."""
_PLACES = ("boot", "lib/modules", "usr/lib/modules")


def kernel(
    source: BinarySource, request: KernelRequest, store: Store, progress: Progress
) -> Kernel:
    """The kernel that `source` names, fetched if the store has none as new.

    Raises SeriesNotFoundError where no suite has it, HostError where it cannot be fetched,
    UsageError for a `request` that asks for changes.
    """
    check_unchanged(request)
    found = packages.fetch(_wanted(source), store, progress)
    images = [
        *found.directory.glob("boot/vmlinuz-*"),
        *found.directory.glob("**/lib/modules/*/vmlinuz"),
    ]
    if len(images) != 1:
        names = ", ".join(record.package for record in found.records)
        raise HostError(f"{len(images)} kernel images in {names}, where one was expected")
    facts = {"kind": "debian-binary", "packages": [asdict(record) for record in found.records]}
    return prebuilt(images[0], request, store, facts)


def _wanted(source: BinarySource) -> packages.Wanted:
    name = f"{source.series}-{source.flavour}" if source.flavour else source.series

    def absent(searched: str) -> HostError:
        return SeriesNotFoundError(
            f"no linux-image package for {name}; suites searched: {searched}",
            hint=f"choose another series or flavour, or give a bzImage; debian:{source.series} "
            "builds one from source",
        )

    return packages.Wanted(
        f"linux-image-{name}",
        "kernel-binary",
        "linux-image-1",
        lambda archives: _choose(source, archives),
        _unpack,
        absent,
    )


def image_packages(names: Sequence[str], source: BinarySource) -> list[str]:
    """Those of the package `names` that hold a kernel of the series and flavour: exact releases.

    Left out are metapackages (linux-image-6.12-amd64), symbols (-dbg) and what nobody signed.
    """
    usual = "|".join(_USUAL)
    flavour = rf"{source.flavour}(?:-(?:{usual}))?" if source.flavour else f"(?:{usual})"
    release = rf"{re.escape(source.series)}\.\d+[^-]*(?:-\d+)?-{flavour}"
    return [name for name in names if re.fullmatch(_IMAGE + release, name)]


def _choose(source: BinarySource, archives: apt.Apt) -> list[apt.Candidate]:
    names = image_packages(archives.names(f"{_IMAGE}{source.series}."), source)
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


def _unpack(files: Sequence[Path], directory: Path, progress: Progress) -> None:
    for number, file in enumerate(files):
        progress("unpack", number, len(files), file.name)
        packages.unpack_files(file, directory, _belongs)
        file.unlink()


def _belongs(path: PurePosixPath) -> bool:
    return any(path.is_relative_to(place) for place in _PLACES)
