# SPDX-License-Identifier: MIT
"""What is carried to make our QEMU of a release: thin patches, files of our own, a device list.

All of it lies in guest-images/qemu: a series (harness/kernel/series.py) and `devices.mak`, which
names the devices that are compiled.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from harness.base.resources import carried
from harness.base.store import digest_of
from harness.kernel.series import Patch, Series, patches_digest, read_series
from harness.kernel.tree import blob_id
from harness.kernel.version import Version

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
