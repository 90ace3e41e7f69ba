# SPDX-License-Identifier: MIT
"""What a module for a distribution's kernel is built against: its headers, installed or fetched."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.base.guarded import ask, run_guarded
from harness.base.progress import Progress
from harness.base.status import HostError, PreconditionError
from harness.base.store import Store, digest_file, digest_of
from harness.kernel import apt, packages

_PREFIX = "linux-headers-"
_PARTS = (_PREFIX, "linux-kbuild-")
"""Of what the headers' package depends on: the rest of the headers, and the build's tools."""
_FACTS = ("Module.symvers", "include/config/auto.conf", "include/generated/autoconf.h")
_RELEASE = "include/config/kernel.release"
_UTS_RELEASE = "include/generated/utsrelease.h"
_LIBRARIES = ("libc6", "libelf1t64", "libelf1", "zlib1g", "libzstd1")
"""Debian packages of what a kernel's build tools are linked with; libelf has two names."""
LOADER = "ld-linux-x86-64.so.2"


@dataclass(frozen=True)
class Headers:
    """A directory for `make -C`."""

    directory: Path
    identity: str
    """Changes with what is built against them."""
    root: Path | None = None
    """Where their packages are unpacked, if not at /: absolute paths in them begin there."""


def find_headers(
    release: str, modules: Path | None, store: Store, progress: Progress, root: Path = Path("/")
) -> Headers:
    """Those of the kernel that calls itself `release` and has its modules in `modules`.

    Taken from where packages install them below `root`, else from the package of that name.
    Raises PreconditionError for headers that are not this kernel's or not complete, HostError
    (PackageNotFoundError) where there are none.
    """
    places = [
        *([modules / "build"] if modules else []),
        root / "lib/modules" / release / "build",
        root / "usr/src" / f"{_PREFIX}{release}",
    ]
    for place in places:
        if (place / "Makefile").is_file():
            directory = place.resolve()
            check_headers(directory, release)
            facts = [digest_file(directory / name) for name in _FACTS]
            return Headers(directory, digest_of(str(directory), *facts))
    return _packaged(release, store, progress)


def check_headers(directory: Path, release: str) -> None:
    """Raise PreconditionError unless modules for `release` can be built in `directory`."""
    missing = [name for name in _FACTS if not (directory / name).is_file()]
    if missing:
        raise PreconditionError(
            f"the kernel headers in {directory} are not complete: no {', '.join(missing)}",
            hint="build the modules of that tree (make modules), or install the package of headers",
        )
    found = headers_release(directory)
    if found != release:
        raise PreconditionError(
            f"the kernel headers in {directory} are of {found or 'an unknown release'}, and the "
            f"kernel under test is {release}: it would refuse the module (vermagic)",
            hint="install the headers of that kernel, or take these away: they are then fetched",
        )


def headers_release(directory: Path) -> str:
    """What a kernel built with these headers calls itself; "" if they do not say."""
    for name, pattern in ((_RELEASE, r"^(\S+)$"), (_UTS_RELEASE, r'UTS_RELEASE "(\S+)"')):
        path = directory / name
        if path.is_file() and (match := re.search(pattern, path.read_text(), re.M)):
            return match[1]
    return ""


def _packaged(release: str, store: Store, progress: Progress) -> Headers:
    name = f"{_PREFIX}{release}"
    wanted = packages.Wanted(
        name,
        "kernel-headers",
        "linux-headers-1",
        lambda archives: _choose(name, archives),
        unpack_whole,
        f"no package {name}, which modules for this kernel are built with",
        "install that kernel's headers, or build a kernel with the test hooks in it (debian:6.12)",
    )
    found = packages.held(wanted, store) or packages.fetch(wanted, store, progress)
    directory = found.directory / "usr" / "src" / name
    check_headers(directory, release)
    return Headers(directory, found.directory.name, found.directory)


def _choose(name: str, archives: apt.Apt) -> list[apt.Candidate]:
    headers = archives.newest([name])
    if headers is None:
        return []
    chosen = [headers]
    for needed in archives.depends(headers):
        if needed.startswith(_PARTS):
            part = archives.newest([needed])
            if part is None:
                raise HostError(f"{name} needs {needed}, which its archive lacks")
            chosen.append(part)
    return chosen


def unpack_whole(files: Sequence[Path], directory: Path, progress: Progress) -> None:
    """All that the packages hold, links as well, below `directory`."""
    for number, file in enumerate(files):
        progress("unpack", number, len(files), file.name)
        said: list[str] = []
        argv = ["dpkg-deb", "-x", str(file), str(directory)]
        if run_guarded(argv, cwd=directory, env=os.environ | {"LC_ALL": "C"}, line=said.append):
            raise HostError(f"dpkg-deb could not unpack {file.name}", details=said[-5:])
        file.unlink()


def missing_glibc(programs: Sequence[Path]) -> str:
    """The version of glibc that `programs` need and this machine has not: "2.38"; "" if none."""
    if not programs:
        return ""
    done = ask(["ldd", *programs], 60)
    wanted = re.findall(r"GLIBC_(\d+\.\d+)' not found", done.stdout + done.stderr)
    return max(wanted, key=lambda text: [int(part) for part in text.split(".")], default="")


def fetch_libraries(version: str, store: Store, progress: Progress) -> Path:
    """A directory with glibc, of this version or later, and the others that build tools need."""
    wanted = packages.Wanted(
        f"libraries-{version}",
        "libraries",
        "libraries-1",
        lambda archives: _choose_libraries(version, archives),
        unpack_whole,
        f"the build tools of these kernel headers need glibc {version}, this machine's is older, "
        "and no suite has it",
        "run this on a newer release of the distribution",
    )
    found = packages.held(wanted, store) or packages.fetch(wanted, store, progress)
    loaders = sorted(found.directory.glob(f"**/x86_64-linux-gnu/{LOADER}"))
    if not loaders:
        raise HostError(f"the package libc6 in {found.directory} has no {LOADER}")
    return loaders[0].parent


def _choose_libraries(version: str, archives: apt.Apt) -> list[apt.Candidate | None]:
    if archives.newest(["libc6"], lambda candidate: apt.at_least(candidate.version, version)):
        return [archives.newest([name]) for name in _LIBRARIES]
    return []
