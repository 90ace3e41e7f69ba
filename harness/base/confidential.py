# SPDX-License-Identifier: MIT
"""The parts of a guest's spec that are for TDX and SEV-SNP."""

import enum
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.base.options import (
    BITS,
    FILE,
    FIRMWARE,
    FLAG,
    GUEST_DOORS,
    TEXT,
    PackagedFirmware,
    ValueKind,
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
    """Whether an SNP guest's firmware gets the hashes of kernel, initrd and command line; AUTO:
    where it has room for them, as such a firmware starts nothing without."""

    AUTO = "auto"
    ON = "on"
    OFF = "off"


SNP_POLICY = 0x30000
"""SMT allowed, and bit 17, which must be one (SEV-SNP firmware ABI, "Guest Policy", rev. 1.57)."""
SNP_POLICY_DEBUG = 1 << 19
SNP_POLICY_SMT = 1 << 16
_SNP_POLICY_ONE = 1 << 17
_SNP_POLICY_KNOWN = (1 << 26) - 1
_BOTH: dict[str, Any] = {"targets": ("snp", "tdx"), "doors": GUEST_DOORS}


@dataclass(frozen=True)
class Confidential:
    """Parameters on hardware and under TCG alike (docs/hardware.md)."""

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
        **_BOTH,
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
        **_BOTH,
    )
    huge_pages: HugePages = option(
        HugePages.NONE,
        one_of(HugePages, "size of huge pages"),
        "Huge pages of this size back the memory that the guest shares with the host.",
        **_BOTH,
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


class OnViolation(enum.StrEnum):
    """What follows an access that the platform forbids."""

    STOP = "stop"
    """The guest is stopped before the instruction: FAIL, and where it was."""
    INJECT = "inject"
    """What hardware does: an exception, or the end of the guest."""
    REPORT = "report"
    """Counted, and allowed."""


class PageLevel(enum.StrEnum):
    """Largest page that the emulated host maps, and so the largest that can be accepted."""

    SMALL = "4K"
    LARGE = "2M"
    HUGE = "1G"


class FaultKind(enum.StrEnum):
    """A defect that the emulated platform shows on purpose."""

    ACCEPT_LIE = "accept-lie"
    """The page stays pending though success is returned."""
    ACCEPT_REFUSE = "accept-refuse"
    """Acceptance fails, nothing changes."""
    ACCEPT_TWICE = "accept-twice"
    """Acceptance succeeds and says that it was done before."""
    SIZE_MISMATCH = "size-mismatch"
    """Acceptance of a large page fails for its size."""
    BUSY = "busy"
    """The call fails as if another vCPU worked on the page."""
    CONVERT_FORGET = "convert-forget"
    """A conversion returns success and changes nothing."""
    CONVERT_PARTIAL = "convert-partial"
    """A conversion stops half way and says so."""
    DMA_PRIVATE = "dma-private"
    """A device writes to the page just accepted."""
    PROTECTED_WRITE = "protected-write"
    """The page just made a platform's own (VMSA) is written to."""


@dataclass(frozen=True)
class Fault:
    """One defect to show, and in which calls."""

    kind: FaultKind
    gpa: int | None = None
    """Only calls that cover this guest-physical address; None: all."""
    nth: int = 1
    """The first matching call that shows it, from 1."""
    count: int = 1
    """How many calls show it; 0: all from then on."""

    def __str__(self) -> str:
        """As `parse_fault` takes it."""
        gpa = f",gpa={self.gpa:#x}" if self.gpa is not None else ""
        nth = f",nth={self.nth}" if self.nth != 1 else ""
        count = f",count={self.count}" if self.count != 1 else ""
        return f"{self.kind.value}{gpa}{nth}{count}"


def parse_fault(text: str) -> Fault:
    """A fault from "accept-lie" or "busy,gpa=0x100000000,nth=3,count=0". Raises UsageError."""
    name, *words = text.split(",")
    values: dict[str, int] = {}
    try:
        kind = FaultKind(name)
        for word in words:
            key, _, value = word.partition("=")
            if key not in ("gpa", "nth", "count") or key in values:
                raise ValueError(word)
            values[key] = int(value, 0)
            if not (key == "nth") <= values[key] < 1 << 63:
                raise ValueError(word)
    except ValueError as error:
        kinds = ", ".join(FaultKind)
        raise UsageError(
            f"--faults {text!r}: {error}",
            hint=f"KIND[,gpa=ADDRESS][,nth=N][,count=N], KIND one of {kinds}",
        ) from error
    return Fault(kind, values.get("gpa"), values.get("nth", 1), values.get("count", 1))


FAULTS = ValueKind(
    "faults",
    tuple,
    lambda text: tuple(parse_fault(word) for word in text.split(";") if word),
    lambda faults: ";".join(map(str, faults)),
    "FAULT;…",
)


class Gpaw(enum.StrEnum):
    """Guest physical address width of TDX: the position of the shared bit, plus one."""

    NARROW = "48"
    WIDE = "52"


@dataclass(frozen=True)
class Platform:
    """What the TDX module or the SEV-SNP host is to be like that our QEMU emulates under TCG
    (docs/tcg-platforms.md)."""

    on_violation: OnViolation = option(
        OnViolation.STOP,
        one_of(OnViolation, "policy"),
        "Under TCG, an access that the platform forbids stops the guest, is punished as by "
        "hardware, or is counted and allowed.",
        **_BOTH,
    )
    intercepts: bool = option(
        False,
        FLAG,
        "Under TCG, CPUID, MSR, I/O, MMIO and HLT raise #VE or #VC as on hardware.",
        **_BOTH,
    )
    level: PageLevel = option(
        PageLevel.LARGE,
        one_of(PageLevel, "page size"),
        "Under TCG, this is the largest page that can be accepted by one call.",
        name="accept_level",
        **_BOTH,
    )
    gpaw: Gpaw = option(
        Gpaw.WIDE,
        one_of(Gpaw, "address width"),
        "Under TCG, a TDX guest's physical addresses have this many bits.",
        targets=("tdx",),
        doors=GUEST_DOORS,
    )
    faults: tuple[Fault, ...] = option(
        (),
        FAULTS,
        "Under TCG, the platform shows these defects: KIND[,gpa=ADDRESS][,nth=N][,count=N].",
        **_BOTH,
    )
