# SPDX-License-Identifier: MIT
"""The part of a guest's spec that is for TDX and SEV-SNP, on hardware and under TCG alike."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from pathlib import Path

from harness.base.options import (
    BITS,
    FILE,
    FIRMWARE,
    FLAG,
    GUEST_DOORS,
    TEXT,
    PackagedFirmware,
    one_of,
    option,
)
from harness.base.status import UsageError


class HugePages(enum.StrEnum):
    """What backs the memory that a confidential guest shares with the host."""

    NONE = "none"
    TWO_MIB = "2M"
    ONE_GIB = "1G"


class KernelHashes(enum.StrEnum):
    """Whether QEMU hands the hashes of kernel, initrd and command line to an SNP guest's firmware.

    AUTO: where the firmware has room for them; such a firmware starts nothing without them.
    """

    AUTO = "auto"
    ON = "on"
    OFF = "off"


SNP_POLICY = 0x30000
"""SMT allowed, and bit 17, which must be one (SEV-SNP firmware ABI, "Guest Policy", rev. 1.57)."""
SNP_POLICY_DEBUG = 1 << 19
SNP_POLICY_SMT = 1 << 16
_SNP_POLICY_ONE = 1 << 17
_SNP_POLICY_KNOWN = (1 << 26) - 1


@dataclass(frozen=True)
class Confidential:
    """Parameters of the confidential targets (docs/hardware.md)."""

    firmware: Path | PackagedFirmware | None = option(
        None,
        FIRMWARE,
        "This OVMF image is the guest's firmware, or that of the distribution's package; without "
        "it QEMU's firmware descriptors are searched.",
        doors=GUEST_DOORS,
    )
    disk: Path | None = option(
        None,
        FILE,
        "This distribution image (raw or qcow2, with cloud-init) is booted instead of a kernel, "
        "and not written to.",
        doors=GUEST_DOORS,
    )
    snp_policy: int = option(
        SNP_POLICY,
        BITS,
        "The SNP guest policy is these 64 bits.",
        targets=("snp",),
        doors=GUEST_DOORS,
    )
    debug: bool = option(
        False,
        FLAG,
        "The host may read the guest's memory: SNP policy bit 19, TDX attribute bit 0.",
        name="guest_debug",
        targets=("snp", "tdx"),
        doors=GUEST_DOORS,
    )
    kernel_hashes: KernelHashes = option(
        KernelHashes.AUTO,
        one_of(KernelHashes, "use of kernel hashes"),
        "The firmware gets the hashes of kernel, initrd and command line; auto: where it has room "
        "for them.",
        targets=("snp",),
        doors=GUEST_DOORS,
    )
    cpu_model: str = option(
        "",
        TEXT,
        "QEMU gives the guest this CPU model; without it EPYC-v4 on snp, host on tdx.",
        targets=("snp", "tdx"),
        doors=GUEST_DOORS,
    )
    huge_pages: HugePages = option(
        HugePages.NONE,
        one_of(HugePages, "size of huge pages"),
        "Huge pages of this size back the memory that the guest shares with the host.",
        targets=("snp", "tdx"),
        doors=GUEST_DOORS,
    )

    def __post_init__(self) -> None:
        if not self.snp_policy & _SNP_POLICY_ONE or self.snp_policy & ~_SNP_POLICY_KNOWN:
            raise UsageError(
                f"SNP policy {self.snp_policy:#x}: bit 17 must be one and bits 26 to 63 zero",
                hint=f"the usual policy is {SNP_POLICY:#x}",
            )

    @property
    def policy(self) -> int:
        """The SNP guest policy with the debug bit as asked for."""
        return self.snp_policy | (SNP_POLICY_DEBUG if self.debug else 0)
