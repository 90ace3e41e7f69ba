# SPDX-License-Identifier: MIT
"""Parameters of the TDX module and the SEV-SNP host that our QEMU emulates under TCG.

They go to QEMU's object as they are (docs/tcg-platforms.md); on hardware there is nothing to set.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from harness.base.options import FLAG, GUEST_DOORS, ValueKind, one_of, option
from harness.base.status import UsageError


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

    @property
    def number(self) -> int:
        """0, 1 or 2, as in page tables and in TDG.MEM.PAGE.ACCEPT."""
        return [*PageLevel].index(self)


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
    known = {"gpa", "nth", "count"}
    values: dict[str, int] = {}
    try:
        kind = FaultKind(name)
        for word in words:
            key, _, value = word.partition("=")
            if key not in known or key in values:
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


def _read_faults(text: str, _option: str) -> tuple[Fault, ...]:
    return tuple(parse_fault(word) for word in text.split(";") if word)


FAULTS = ValueKind(
    "faults",
    tuple,
    _read_faults,
    lambda faults: ";".join(map(str, faults)),
    "FAULT;…",
)


class Gpaw(enum.StrEnum):
    """Guest physical address width of TDX: the position of the shared bit, plus one."""

    NARROW = "48"
    WIDE = "52"


_CONFIDENTIAL = ("snp", "tdx")


@dataclass(frozen=True)
class Platform:
    """What the emulated TDX module or SNP host is to be like."""

    on_violation: OnViolation = option(
        OnViolation.STOP,
        one_of(OnViolation, "policy"),
        "Under TCG, an access that the platform forbids stops the guest, is punished as by "
        "hardware, or is counted and allowed.",
        targets=_CONFIDENTIAL,
        doors=GUEST_DOORS,
    )
    intercepts: bool = option(
        False,
        FLAG,
        "Under TCG, CPUID, MSR, I/O, MMIO and HLT raise #VE or #VC as on hardware.",
        targets=_CONFIDENTIAL,
        doors=GUEST_DOORS,
    )
    level: PageLevel = option(
        PageLevel.LARGE,
        one_of(PageLevel, "page size"),
        "Under TCG, this is the largest page that can be accepted by one call.",
        name="accept_level",
        targets=_CONFIDENTIAL,
        doors=GUEST_DOORS,
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
        targets=_CONFIDENTIAL,
        doors=GUEST_DOORS,
    )
