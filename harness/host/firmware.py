# SPDX-License-Identifier: MIT
"""Firmware for a confidential guest, found by QEMU's firmware descriptors; why each other was not.

Descriptors: QEMU docs/interop/firmware.json. They are looked for in the user's, the
administrator's and the packages' directory; a file masks those of the same name in later
directories, and of what is left the first by name that fits is taken.
"""

from __future__ import annotations

import fnmatch
import json
import os
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harness.base.status import HostError, UsageError
from harness.host import ovmf
from harness.host.view import HostView, reason

_MACHINE = "pc-q35-9.1"
"""Stands for every q35 version in the descriptors' patterns ("pc-q35-*")."""
PLAIN_IMAGES = (
    Path("/usr/share/ovmf/OVMF.fd"),
    Path("/usr/share/qemu/OVMF.fd"),
    Path("/usr/share/edk2/ovmf/OVMF.fd"),
    Path("/usr/share/edk2/x64/OVMF.4m.fd"),
)
"""OVMF as one file, where distributions put it."""
ASKED = "asked for"
"""Where an image is from that the user named. It may be one that accepts all memory."""


@dataclass(frozen=True)
class Demand:
    """What a target asks of its firmware."""

    feature: str
    """In the descriptor: "amd-sev-snp", "intel-tdx"."""
    metadata: uuid.UUID | None
    """Entry that the image's table must have, if any."""
    packages: str
    """What to install, for the hint."""
    unsigned_kernel: bool
    """The guest starts a kernel without a signature that Secure Boot would accept."""
    protocol: uuid.UUID | None = None
    """What its drivers must know to leave memory unaccepted, where that is one thing."""
    kernel_hashes: bool = True
    """The platform can give it the hashes of a directly booted kernel, on which AmdSev builds
    insist."""


SNP = Demand(
    "amd-sev-snp",
    ovmf.SEV_METADATA,
    "ovmf-amdsev (Debian 14 and later) or edk2-ovmf (Fedora)",
    True,
    ovmf.SEV_ACCEPT_PROTOCOL,
)
TDX = Demand(
    "intel-tdx",
    ovmf.TDX_METADATA,
    "ovmf-inteltdx (Debian 14 and later) or edk2-ovmf (Fedora)",
    True,
)


def under_tcg(demand: Demand) -> Demand:
    """What the same platform asks where QEMU emulates it: nobody measures what is booted there, so
    that there are no kernel hashes."""
    return replace(demand, kernel_hashes=False)


PLAIN = Demand("efi", None, "ovmf", True)
"""Of the emulated target's efi route."""


@dataclass(frozen=True)
class Rejected:
    """A candidate and what was wrong with it."""

    name: str
    reason: str

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


@dataclass(frozen=True)
class Firmware:
    """The image for -bios."""

    path: Path
    source: str
    """The descriptor's file, the package, or ASKED."""
    kernel_hashes: bool
    """Whether it has room for the hashes of a directly booted kernel; AmdSev builds insist."""
    rejected: tuple[Rejected, ...] = ()


class UnfitError(Exception):
    """Why an image or descriptor will not do."""


def descriptor_directories(environment: Mapping[str, str] = os.environ) -> list[Path]:
    """Where descriptors are, the most important first."""
    config = environment.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
    return [
        Path(config) / "qemu/firmware",
        Path("/etc/qemu/firmware"),
        Path("/usr/share/qemu/firmware"),
    ]


def find_firmware(
    demand: Demand,
    view: HostView,
    asked: Path | None = None,
    directories: Iterable[Path] | None = None,
) -> Firmware:
    """The image `asked` for, or the first that fits. Raises HostError with every candidate's fate.

    Where no descriptor fits, a plain OVMF image with the right metadata will do. Raises UsageError
    for an `asked` image that cannot be one.
    """
    if asked is not None:
        return _asked(demand, view, asked)
    looked_in = [*(descriptor_directories() if directories is None else directories)]
    found, rejected = search(demand, view, looked_in)
    if found is None:
        places = ", ".join(map(str, looked_in))
        raise no_firmware(
            demand, f"no descriptor in {places} fits, nor does a plain OVMF image", rejected
        )
    return found


def search(
    demand: Demand, view: HostView, directories: Iterable[Path]
) -> tuple[Firmware | None, tuple[Rejected, ...]]:
    """The first image of this machine that fits, if any, and the candidates before it."""
    rejected: list[Rejected] = []
    candidates = [(name, name) for name in _descriptors(view, directories)]
    candidates += [(str(path), "") for path in PLAIN_IMAGES]
    for name, descriptor in candidates:
        try:
            image = _fitting_image(view, descriptor, demand) if descriptor else Path(name)
            found = judge(view, image, descriptor or "plain OVMF, no descriptor fits", demand)
            if descriptor and found.kernel_hashes and not demand.kernel_hashes:
                raise UnfitError("it starts a kernel by its hash only, which this platform lacks")
        except UnfitError as unfit:
            rejected.append(Rejected(name, str(unfit)))
        else:
            return replace(found, rejected=tuple(rejected)), tuple(rejected)
    return None, tuple(rejected)


def no_firmware(demand: Demand, search: str, rejected: Sequence[Rejected]) -> HostError:
    """The error that says where was looked, and each candidate's fate."""
    return HostError(
        f"no firmware for {demand.feature}: {search}",
        hint=f"install {demand.packages}, or name an image with --firmware",
        details=[str(candidate) for candidate in rejected],
    )


def _asked(demand: Demand, view: HostView, path: Path) -> Firmware:
    try:
        return judge(view, path, ASKED, demand)
    except UnfitError as unfit:
        raise UsageError(
            f"--firmware {path}: {unfit}",
            hint=f"name an OVMF image for {demand.feature}, or leave the option out",
        ) from None


def _descriptors(view: HostView, directories: Iterable[Path]) -> list[str]:
    found: dict[str, str] = {}
    for directory in directories:
        for path in view.glob(f"{directory}/*.json"):
            found.setdefault(Path(path).name, path)
    return [found[name] for name in sorted(found)]


def _fitting_image(view: HostView, path: str, demand: Demand) -> Path:
    """The image of a descriptor that meets `demand`. Raises UnfitError."""
    descriptor = _load(view, path)
    features = _list(descriptor, "features")
    if demand.feature not in features:
        raise UnfitError(f"it does not claim {demand.feature}")
    targets = [t for t in _list(descriptor, "targets") if isinstance(t, dict)]
    machines = [
        m for t in targets if t.get("architecture") == "x86_64" for m in _list(t, "machines")
    ]
    if not any(fnmatch.fnmatch(_MACHINE, str(pattern)) for pattern in machines):
        raise UnfitError("it is not for x86_64 and q35")
    if "requires-smm" in features:
        raise UnfitError("it needs SMM, which confidential guests do not have")
    if demand.unsigned_kernel and "enrolled-keys" in features:
        raise UnfitError(
            "Secure Boot keys are enrolled in it: it would not start an unsigned kernel"
        )
    return _image(descriptor)


def _load(view: HostView, path: str) -> dict[str, Any]:
    try:
        text = view.read(path)
        if not text.strip():
            raise UnfitError("the file is empty: it switches off a descriptor of the same name")
        descriptor = json.loads(text)
    except (OSError, ValueError) as error:
        raise UnfitError(f"it cannot be read: {error}") from error
    if not isinstance(descriptor, dict):
        raise UnfitError("it is not a JSON object")
    return descriptor


def _list(mapping: Mapping[str, Any], key: str) -> list[Any]:
    value = mapping.get(key)
    return value if isinstance(value, list) else []


def _image(descriptor: Mapping[str, Any]) -> Path:
    mapping = descriptor.get("mapping")
    mapping = mapping if isinstance(mapping, dict) else {}
    device = mapping.get("device")
    if device == "memory":
        name = mapping.get("filename")
    elif device == "flash":
        if mapping.get("mode") != "stateless":
            raise UnfitError("it is for pflash with a variable store, which KVM refuses here")
        executable = mapping.get("executable")
        name = executable.get("filename") if isinstance(executable, dict) else None
    else:
        raise UnfitError(f"it is to be mapped as {device}")
    if not isinstance(name, str):
        raise UnfitError("it names no image")
    return Path(name)


def judge(view: HostView, path: Path, source: str, demand: Demand) -> Firmware:
    """The image at `path`, if it meets `demand`. Raises UnfitError."""
    try:
        table = view.ovmf_table(str(path))
    except OSError as error:
        raise UnfitError(f"cannot read {path}: {reason(error)}") from error
    if demand.metadata and str(demand.metadata) not in table:
        raise UnfitError(f"the image {path} has no metadata for {demand.feature}")
    if source != ASKED and _accepts_everything(view, path, demand):
        raise UnfitError(
            f"the image {path} accepts all memory itself: its drivers lack the protocol "
            f"{demand.protocol} by which a kernel has it left unaccepted"
        )
    area = table.get(str(ovmf.SEV_HASH_TABLE), "")  # address and size, both 0 where there is none
    return Firmware(path.absolute(), source, bool(area.strip("0")))


def _accepts_everything(view: HostView, path: Path, demand: Demand) -> bool:
    """Whether it is known to. Images other than edk2's may not be readable: they get a chance."""
    if demand.protocol is None:
        return False
    try:
        return not view.ovmf_drivers_mention(str(path), str(demand.protocol))
    except OSError:
        return False
