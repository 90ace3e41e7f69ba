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
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Demand:
    """What a target asks of its firmware."""

    feature: str
    """In the descriptor: "amd-sev-snp", "intel-tdx"."""
    metadata: uuid.UUID
    """Entry that the image's table must have."""
    packages: str
    """What to install, for the hint."""
    unsigned_kernel: bool
    """The guest starts a kernel without a signature that Secure Boot would accept."""


SNP = Demand(
    "amd-sev-snp",
    ovmf.SEV_METADATA,
    "ovmf-amdsev (Debian 14 and later) or edk2-ovmf (Fedora)",
    True,
)
TDX = Demand(
    "intel-tdx",
    ovmf.TDX_METADATA,
    "ovmf-inteltdx (Debian 14 and later) or edk2-ovmf (Fedora)",
    True,
)


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
    """The descriptor's file, or "asked for"."""
    kernel_hashes: bool
    """Whether it has room for the hashes of a directly booted kernel; AmdSev builds insist."""
    rejected: tuple[Rejected, ...] = ()


class _Unfit(Exception):
    pass


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
    rejected: list[Rejected] = []
    looked_in = [*(descriptor_directories() if directories is None else directories)]
    for descriptor in _descriptors(view, looked_in):
        try:
            path = _fitting_image(view, descriptor, demand)
            return _firmware(view, path, descriptor, demand, rejected)
        except _Unfit as unfit:
            rejected.append(Rejected(descriptor, str(unfit)))
    for path in PLAIN_IMAGES:
        try:
            return _firmware(view, path, "plain OVMF, no descriptor fits", demand, rejected)
        except _Unfit as unfit:
            rejected.append(Rejected(str(path), str(unfit)))
    raise HostError(
        f"no firmware for {demand.feature}: no descriptor in "
        f"{', '.join(map(str, looked_in))} fits, nor does a plain OVMF image",
        hint=f"install {demand.packages}, or name an image with --firmware",
        details=map(str, rejected),
    )


def _asked(demand: Demand, view: HostView, path: Path) -> Firmware:
    try:
        return _firmware(view, path, "asked for", demand, [])
    except _Unfit as unfit:
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
    """The image of a descriptor that meets `demand`. Raises _Unfit."""
    descriptor = _load(view, path)
    features = _list(descriptor, "features")
    if demand.feature not in features:
        raise _Unfit(f"it does not claim {demand.feature}")
    targets = [t for t in _list(descriptor, "targets") if isinstance(t, dict)]
    machines = [
        m for t in targets if t.get("architecture") == "x86_64" for m in _list(t, "machines")
    ]
    if not any(fnmatch.fnmatch(_MACHINE, str(pattern)) for pattern in machines):
        raise _Unfit("it is not for x86_64 and q35")
    if "requires-smm" in features:
        raise _Unfit("it needs SMM, which confidential guests do not have")
    if demand.unsigned_kernel and "enrolled-keys" in features:
        raise _Unfit("Secure Boot keys are enrolled in it: it would not start an unsigned kernel")
    return _image(descriptor)


def _load(view: HostView, path: str) -> dict[str, Any]:
    try:
        text = view.read(path)
        if not text.strip():
            raise _Unfit("the file is empty: it switches off a descriptor of the same name")
        descriptor = json.loads(text)
    except (OSError, ValueError) as error:
        raise _Unfit(f"it cannot be read: {error}") from error
    if not isinstance(descriptor, dict):
        raise _Unfit("it is not a JSON object")
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
            raise _Unfit("it is for pflash with a variable store, which KVM refuses here")
        executable = mapping.get("executable")
        name = executable.get("filename") if isinstance(executable, dict) else None
    else:
        raise _Unfit(f"it is to be mapped as {device}")
    if not isinstance(name, str):
        raise _Unfit("it names no image")
    return Path(name)


def _firmware(
    view: HostView, path: Path, source: str, demand: Demand, rejected: list[Rejected]
) -> Firmware:
    try:
        table = view.ovmf_table(str(path))
    except OSError as error:
        raise _Unfit(f"cannot read {path}: {reason(error)}") from error
    if str(demand.metadata) not in table:
        raise _Unfit(f"the image {path} has no metadata for {demand.feature}")
    area = table.get(str(ovmf.SEV_HASH_TABLE), "")  # address and size, both 0 where there is none
    return Firmware(path.absolute(), source, bool(area.strip("0")), tuple(rejected))
