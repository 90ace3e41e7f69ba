# SPDX-License-Identifier: MIT
"""QEMU's source (the distribution's package, a release tarball, a directory), and what makes ours
of it: the series in guest-images/qemu, and its `devices.mak`, the devices that are compiled."""

import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from harness.base.progress import Progress
from harness.base.reader import read_json
from harness.base.resources import carried
from harness.base.status import UsageError
from harness.base.store import Store, digest_file, digest_of
from harness.kernel import apt, packages
from harness.kernel.debian import DamagedError, unpack_tarball
from harness.kernel.series import Patch, Series, patches_digest, read_series
from harness.kernel.tree import SourceTree, blob_id, read_directory, scan_cached
from harness.kernel.version import Version

_KIND = "qemu-source"
_FORMAT = "qemu-source-1"
"""Changes when an entry's content changes for equal inputs."""
_TYPICAL_FILES = 11_000
"""Files in a release (10.0.13 without its ROMs: 10,700), for the progress estimate."""
# Sources of firmware that is not built here: half of the tarball.
_LEFT_OUT = ("*/roms",)
_REQUIRED = ("VERSION", "configure", "meson.build", "target/i386/cpu.c")


def open_source(source: Path | None, store: Store, progress: Progress) -> SourceTree:
    """The source in `source`, a directory or tarball; without one, the distribution's newest.
    Raises UsageError if it is no QEMU source, HostError if none can be fetched."""
    if source is None:
        return tree_of(packages.fetch(wanted(), store, progress))
    if source.is_dir():
        return _open_directory(source.resolve(), store, progress)
    if source.is_file():
        return _open_tarball(source.resolve(), store, progress)
    raise UsageError(
        f"{source} does not exist", hint="give a directory or a tarball with QEMU's source"
    )


def upstream_version(text: str) -> Version | None:
    """The release in a Debian version: "1:10.0.13+ds-0+deb13u1" -> 10.0.13; None if unreadable."""
    match = re.match(r"(?:\d+:)?(\d{1,4}\.\d{1,4}(?:\.\d{1,4})?)(?![\d.])", text)
    return Version.parse(match[1]) if match else None


def wanted() -> packages.Wanted:
    """The distribution's newest source of a release that patches are carried for."""
    series = qemu_series()

    def fits(candidate: apt.Candidate) -> bool:
        version = upstream_version(candidate.version)
        return version is not None and series.release_of(version) is not None

    def choose(archive: apt.Apt) -> list[apt.Candidate | None]:
        return [archive.newest(["qemu"], fits)]

    # An answer of other carried patches may be a release that these are not for.
    name = f"qemu-{digest_of(series.ranges)[:8]}"
    return packages.Wanted(
        name,
        _KIND,
        _FORMAT,
        choose,
        _unpack,
        f"no source package of a QEMU {series.ranges}",
        "give a release's tarball: cvm-harness build-qemu --source FILE",
        archive=apt.SourceApt,
    )


def _unpack(files: Sequence[Path], directory: Path, progress: Progress) -> None:
    (tarball,) = files
    unpack_tarball(tarball, directory, progress, typical_files=_TYPICAL_FILES, leave_out=_LEFT_OUT)
    tarball.unlink()


def tree_of(found: packages.Unpacked) -> SourceTree:
    """The source that was made of `wanted()`."""
    (record,) = found.records
    return _unpacked_tree(found.directory, {"kind": "debian", **asdict(record)})


def _unpacked_tree(directory: Path, provenance: Mapping[str, object]) -> SourceTree:
    manifest = read_json(directory / "manifest.json", dict[str, str])
    root = directory / "tree"
    version = _version(root, str(provenance.get("path", root)))
    # Patch releases follow each other in one object tree: few files differ.
    family = f"{provenance['kind']}:qemu-{version.series}"
    read = functools.partial(read_directory, root)
    return SourceTree(manifest, read, version, family, provenance, root, product="QEMU")


def _open_tarball(path: Path, store: Store, progress: Progress) -> SourceTree:
    sha256 = digest_file(path)

    def unpack(directory: Path) -> None:
        try:
            unpack_tarball(
                path, directory, progress, typical_files=_TYPICAL_FILES, leave_out=_LEFT_OUT
            )
        except DamagedError as error:
            raise UsageError(
                f"{path} is not a usable archive",
                hint="give a tarball as QEMU is released in, downloaded whole",
                details=error.details,
            ) from error
        _unpacked_tree(directory, provenance)  # an entry is made only of what is QEMU's source

    provenance = {"kind": "tarball", "path": str(path), "sha256": sha256}
    return _unpacked_tree(store.fetch(_KIND, digest_of(_FORMAT, sha256), unpack), provenance)


def _open_directory(root: Path, store: Store, progress: Progress) -> SourceTree:
    # Not as git sees it: configure also needs the subprojects, which git does not track there.
    version = _version(root, str(root))
    manifest = scan_cached(root, store, progress, ("build", "roms", "*/__pycache__"))
    read = functools.partial(read_directory, root)
    provenance = {"kind": "directory", "path": str(root)}
    return SourceTree(manifest, read, version, f"directory:{root}", provenance, product="QEMU")


def _version(root: Path, name: str) -> Version:
    absent = [path for path in _REQUIRED if not (root / path).is_file()]
    if absent:
        raise UsageError(
            f"{name} is not a QEMU source: it has no {absent[0]}",
            hint="give the top directory of a QEMU source, or a release's tarball",
        )
    text = (root / "VERSION").read_text(errors="replace").strip()
    version = upstream_version(text)
    if version is None:
        raise UsageError(
            f"{name} does not say which QEMU it is: VERSION holds {text[:40]!r}",
            hint="give a release's source",
        )
    return version


DIRECTORY = carried("guest-images") / "qemu"

DEVICES = "configs/devices/x86_64-softmmu/cvm-harness.mak"
"""Where configure looks for `--with-devices-x86_64=cvm-harness` (docs/devel/kconfig.rst)."""

CONFIGURE = (
    "--target-list=x86_64-softmmu",
    "--without-default-features",
    "--without-default-devices",
    "--with-devices-x86_64=cvm-harness",
    "--enable-system",
    "--enable-tcg",
    # The platforms exist under TCG only; guests under KVM run on the QEMU on PATH.
    "--disable-kvm",
    "--enable-slirp",
    # Instructions by function are counted by a plugin (guest-images/tcg-plugin).
    "--enable-plugins",
    "--disable-docs",
    "--disable-tools",
    "--disable-user",
    "--disable-guest-agent",
    "--disable-download",
    "--disable-werror",
    # The symbol table stays, for backtraces; line tables would cost a fifth of the build.
    "--disable-debug-info",
    "--disable-qom-cast-debug",
    # Firmware is the distribution's: option ROMs and SeaBIOS, where its packages put them. Paths
    # outside the prefix are not moved with the binary (util/cutils.c, get_relocated_path()).
    "--disable-install-blobs",
    "--prefix=/opt/cvm-harness",
    "--firmwarepath=/usr/share/qemu:/usr/share/seabios:/usr/lib/ipxe/qemu",
)


@dataclass(frozen=True)
class Recipe:
    """What is done to the source of one release."""

    patches: tuple[Patch, ...]
    devices: bytes

    @property
    def digest(self) -> str:
        """Identity of what is carried, by content."""
        return digest_of(patches_digest(self.patches), blob_id(self.devices), CONFIGURE)


def qemu_series(directory: Path = DIRECTORY) -> Series:
    """The patches that are carried for QEMU. Raises UsageError."""
    return read_series(directory, "QEMU")


def read_recipe(version: Version, directory: Path = DIRECTORY) -> Recipe:
    """What is carried for QEMU `version`. Raises UsageError if nothing is, or a part is missing."""
    return Recipe(
        tuple(qemu_series(directory).select(version)), (directory / "devices.mak").read_bytes()
    )
