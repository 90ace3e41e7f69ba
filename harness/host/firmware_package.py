# SPDX-License-Identifier: MIT
"""Firmware from the distribution's package, fetched by apt, where the machine has none that fits.

OVMF as one file is in the package ovmf, or since Debian 14 in ovmf-generic, on which ovmf only
depends. Suite after suite is tried until an image meets the demand: what a stable release has may
be too old.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from harness.base.options import PackagedFirmware
from harness.base.progress import Progress
from harness.base.status import HostError
from harness.base.store import Store
from harness.host.firmware import (
    Demand,
    Firmware,
    UnfitError,
    descriptor_directories,
    find_firmware,
    judge,
    no_firmware,
    search,
)
from harness.host.view import HostView
from harness.kernel import apt, packages

IMAGE = PurePosixPath("usr/share/ovmf/OVMF.fd")
_PACKAGES = ("ovmf-generic", "ovmf")
_NONE = f"it has neither {' nor '.join(_PACKAGES)}"


def named_image(
    asked: Path | PackagedFirmware | None,
    demand: Demand,
    view: HostView,
    store: Store,
    progress: Progress,
) -> Path | None:
    """The file that was `asked` for, fetched where a package was. Raises as `fetch_firmware`."""
    if isinstance(asked, PackagedFirmware):
        return fetch_firmware(demand, view, store, progress, asked.suite).path
    return asked


def find_or_fetch(
    demand: Demand,
    view: HostView,
    store: Store,
    progress: Progress,
    asked: Path | PackagedFirmware | None = None,
    directories: Iterable[Path] | None = None,
) -> Firmware:
    """What is `asked` for, else the first image of this machine that fits, else a package's.

    Raises UsageError for an `asked` image that cannot be one, HostError with every candidate's fate
    where none fits.
    """
    if isinstance(asked, PackagedFirmware):
        return fetch_firmware(demand, view, store, progress, asked.suite)
    if asked is not None:
        return find_firmware(demand, view, asked)
    looked_in = descriptor_directories() if directories is None else directories
    found, rejected = search(demand, view, looked_in)
    return found or fetch_firmware(demand, view, store, progress, rejected=rejected)


def fetch_firmware(
    demand: Demand,
    view: HostView,
    store: Store,
    progress: Progress,
    suite: str = "",
    rejected: Sequence[str] = (),
) -> Firmware:
    """The image of the first suite that meets `demand`; only `suite`, where that is named.

    `rejected` are candidates that were passed over before. Raises UsageError for an unknown suite,
    HostError with every candidate's fate where none fits.
    """
    passed = list(rejected)
    suites = [step.suite for step in apt.machine_steps(suite)]
    for name in suites:
        try:
            found = _judged(packages.fetch(_wanted(name), store, progress), demand, view)
        except packages.PackageNotFoundError:
            found = f"{name}: {_NONE}"
        if isinstance(found, Firmware):
            progress("firmware", 0, None, found.source)
            return replace(found, rejected=tuple(passed))
        passed.append(found)
    places = ", ".join(suites) or "none (no archive of this release)"
    raise no_firmware(demand, f"suites searched: {places}", passed)


def foreseen_firmware(demand: Demand, view: HostView, store: Store) -> Firmware | None:
    """What `find_or_fetch` gives without fetching; None where it would fetch."""
    found, _ = search(demand, view, descriptor_directories())
    for step in () if found else apt.machine_steps():
        if held := packages.held(_wanted(step.suite), store):
            judged = _judged(held, demand, view)
            if isinstance(judged, Firmware):
                return judged
    return found


def _judged(found: packages.Unpacked, demand: Demand, view: HostView) -> Firmware | str:
    (record,) = found.records
    source = f"package {record.package} {record.version} of {record.suite}"
    try:
        return judge(view, found.directory / IMAGE, source, demand)
    except UnfitError as unfit:
        return f"{source}: {unfit}"


def _wanted(suite: str) -> packages.Wanted:
    def choose(archives: apt.Apt) -> list[apt.Candidate]:
        offered = (archives.newest([name]) for name in _PACKAGES)
        return [candidate for candidate in offered if candidate][:1]

    def unpack(files: Sequence[Path], directory: Path, progress: Progress) -> None:
        (package,) = files
        packages.unpack_files(package, directory, lambda path: path == IMAGE)
        package.unlink()
        if not (directory / IMAGE).is_file():
            raise HostError(f"{package.name} holds no {IMAGE}")

    name = f"ovmf-{suite}"
    return packages.Wanted(name, "firmware", "ovmf-1", choose, unpack, _NONE, suite=suite)
