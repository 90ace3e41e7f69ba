# SPDX-License-Identifier: MIT
"""Firmware for a confidential guest, by QEMU's descriptors (its docs/interop/firmware.json), else
from the distribution's packages; and why each other image was not taken."""

import contextlib
import fnmatch
import os
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import msgspec

from harness.base.options import PackagedFirmware
from harness.base.progress import Progress, silent
from harness.base.status import HostError, UsageError
from harness.base.store import Store
from harness.host import ovmf
from harness.host.view import HostView, reason
from harness.kernel import apt, packages

_MACHINE = "pc-q35-9.1"
"""Stands for every q35 version in the descriptors' patterns ("pc-q35-*")."""
PLAIN_IMAGES = (
    Path("/usr/share/ovmf/OVMF.fd"),
    Path("/usr/share/qemu/OVMF.fd"),
    Path("/usr/share/edk2/ovmf/OVMF.fd"),
    Path("/usr/share/edk2/x64/OVMF.4m.fd"),
)
"""OVMF as one file, where distributions put it."""
IMAGE = PurePosixPath("usr/share/ovmf/OVMF.fd")
"""In the packages, of which ovmf only depends on the other since Debian 14."""
_PACKAGES = ("ovmf-generic", "ovmf")
_NONE = f"it has neither {' nor '.join(_PACKAGES)}"
ASKED = "asked for"
"""Where an image is from that the user named. It may be one that accepts all memory."""


@dataclass(frozen=True)
class Demand:
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
class Firmware:
    """The image for -bios."""

    path: Path
    source: str
    """The descriptor's file, the package, or ASKED."""
    kernel_hashes: bool
    """Whether it has room for the hashes of a directly booted kernel; AmdSev builds insist."""
    rejected: tuple[str, ...] = ()
    """The candidates before it, each with its fate."""


class UnfitError(Exception):
    """Why an image or descriptor will not do."""


class _Target(msgspec.Struct):
    architecture: str = ""
    machines: tuple[str, ...] = ()


class _Executable(msgspec.Struct):
    filename: str = ""


class _Mapping(msgspec.Struct):
    device: str
    filename: str = ""
    mode: str = ""
    executable: _Executable = msgspec.field(default_factory=_Executable)


class _Descriptor(msgspec.Struct):
    mapping: _Mapping
    targets: tuple[_Target, ...] = ()
    features: tuple[str, ...] = ()


def descriptor_directories() -> list[Path]:
    config = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    return [config / "qemu/firmware", Path("/etc/qemu/firmware"), Path("/usr/share/qemu/firmware")]


def find_firmware(
    demand: Demand,
    view: HostView,
    asked: Path | None = None,
    directories: Iterable[Path] | None = None,
) -> Firmware:
    """The image `asked` for, or the first that fits: by descriptor, else a plain OVMF image. Raises
    HostError with every candidate's fate, UsageError for an `asked` image that cannot be one."""
    if asked is not None:
        try:
            return judge(view, asked, ASKED, demand)
        except UnfitError as unfit:
            raise UsageError(
                f"--firmware {asked}: {unfit}",
                hint=f"name an OVMF image for {demand.feature}, or leave the option out",
            ) from None
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
) -> tuple[Firmware | None, tuple[str, ...]]:
    """The first image of this machine that fits, if any, and the candidates before it."""
    rejected: list[str] = []
    candidates = [(name, name) for name in _descriptors(view, directories)]
    candidates += [(str(path), "") for path in PLAIN_IMAGES]
    for name, descriptor in candidates:
        try:
            image = _fitting_image(view, descriptor, demand) if descriptor else Path(name)
            found = judge(view, image, descriptor or "plain OVMF, no descriptor fits", demand)
            if descriptor and found.kernel_hashes and not demand.kernel_hashes:
                raise UnfitError("it starts a kernel by its hash only, which this platform lacks")
        except UnfitError as unfit:
            rejected.append(f"{name}: {unfit}")
        else:
            return replace(found, rejected=tuple(rejected)), tuple(rejected)
    return None, tuple(rejected)


def no_firmware(demand: Demand, search: str, rejected: Sequence[str]) -> HostError:
    """The error that says where was looked, and each candidate's fate."""
    return HostError(
        f"no firmware for {demand.feature}: {search}",
        hint=f"install {demand.packages}, or name an image with --firmware",
        details=rejected,
    )


def _descriptors(view: HostView, directories: Iterable[Path]) -> list[str]:
    """By name; a file masks those of the same name in later directories."""
    found: dict[str, str] = {}
    for directory in directories:
        for path in view.glob(f"{directory}/*.json"):
            found.setdefault(Path(path).name, path)
    return [found[name] for name in sorted(found)]


def _fitting_image(view: HostView, path: str, demand: Demand) -> Path:
    """The image of a descriptor that meets `demand`. Raises UnfitError."""
    descriptor = _load(view, path)
    features = descriptor.features
    if demand.feature not in features:
        raise UnfitError(f"it does not claim {demand.feature}")
    machines = [m for t in descriptor.targets if t.architecture == "x86_64" for m in t.machines]
    if not any(fnmatch.fnmatch(_MACHINE, pattern) for pattern in machines):
        raise UnfitError("it is not for x86_64 and q35")
    if "requires-smm" in features:
        raise UnfitError("it needs SMM, which confidential guests do not have")
    if demand.unsigned_kernel and "enrolled-keys" in features:
        raise UnfitError(
            "Secure Boot keys are enrolled in it: it would not start an unsigned kernel"
        )
    mapping = descriptor.mapping
    if mapping.device not in ("memory", "flash"):
        raise UnfitError(f"it is to be mapped as {mapping.device}")
    if mapping.device == "flash" and mapping.mode != "stateless":
        raise UnfitError("it is for pflash with a variable store, which KVM refuses here")
    name = mapping.filename if mapping.device == "memory" else mapping.executable.filename
    if not name:
        raise UnfitError("it names no image")
    return Path(name)


def _load(view: HostView, path: str) -> _Descriptor:
    try:
        text = view.read(path)
        if not text.strip():
            raise UnfitError("the file is empty: it switches off a descriptor of the same name")
        return msgspec.json.decode(text, type=_Descriptor)
    except (OSError, msgspec.DecodeError) as error:
        raise UnfitError(f"it cannot be read: {error}") from error


def judge(view: HostView, path: Path, source: str, demand: Demand) -> Firmware:
    """The image at `path`, if it meets `demand`. Raises UnfitError."""
    try:
        table = view.ovmf_table(str(path))
    except OSError as error:
        raise UnfitError(f"cannot read {path}: {reason(error)}") from error
    if demand.metadata and str(demand.metadata) not in table:
        raise UnfitError(f"the image {path} has no metadata for {demand.feature}")
    if source != ASKED and demand.protocol:
        with contextlib.suppress(OSError):  # images other than edk2's may not be readable
            if not view.ovmf_drivers_mention(str(path), str(demand.protocol)):
                raise UnfitError(
                    f"the image {path} accepts all memory itself: its drivers lack the protocol "
                    f"{demand.protocol} by which a kernel has it left unaccepted"
                )
    area = table.get(str(ovmf.SEV_HASH_TABLE), "")  # address and size, both 0 where there is none
    return Firmware(path.absolute(), source, bool(area.strip("0")))


@dataclass(frozen=True)
class FirmwareSource:
    """Images for one demand: this machine's, else those of packages."""

    demand: Demand
    view: HostView
    store: Store
    progress: Progress = silent

    def named(self, asked: Path | PackagedFirmware | None) -> Path | None:
        """The file that was `asked` for, fetched where a package was. Raises as `fetch`."""
        return self.fetch(asked.suite).path if isinstance(asked, PackagedFirmware) else asked

    def find(self, asked: Path | PackagedFirmware | None = None) -> Firmware:
        """What is `asked` for, else the first image of this machine that fits, else a package's.
        Raises as `find_firmware`."""
        if isinstance(asked, PackagedFirmware):
            return self.fetch(asked.suite)
        if asked is not None:
            return find_firmware(self.demand, self.view, asked)
        found, rejected = search(self.demand, self.view, descriptor_directories())
        return found or self.fetch(rejected=rejected)

    def fetch(self, suite: str = "", rejected: Sequence[str] = ()) -> Firmware:
        """The image of the first suite that meets the demand; only `suite`, where that is named.
        `rejected` were passed over before. Raises UsageError for an unknown suite, HostError where
        none fits."""
        passed = list(rejected)
        suites = [step.suite for step in apt.machine_steps(suite)]
        for name in suites:
            try:
                found = self._judged(packages.fetch(_wanted(name), self.store, self.progress))
            except packages.PackageNotFoundError:
                found = f"{name}: {_NONE}"
            if isinstance(found, Firmware):
                self.progress("firmware", 0, None, found.source)
                return replace(found, rejected=tuple(passed))
            passed.append(found)
        places = ", ".join(suites) or "none (no archive of this release)"
        raise no_firmware(self.demand, f"suites searched: {places}", passed)

    def foreseen(self) -> Firmware | None:
        """What `find` gives without fetching; None where it would fetch."""
        found, _ = search(self.demand, self.view, descriptor_directories())
        for step in () if found else apt.machine_steps():
            if held := packages.held(_wanted(step.suite), self.store):
                judged = self._judged(held)
                if isinstance(judged, Firmware):
                    return judged
        return found

    def _judged(self, found: packages.Unpacked) -> Firmware | str:
        (record,) = found.records
        source = f"package {record.package} {record.version} of {record.suite}"
        try:
            return judge(self.view, found.directory / IMAGE, source, self.demand)
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
