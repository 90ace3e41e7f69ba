# SPDX-License-Identifier: MIT
"""What is to be run: frozen types shared by every package. No I/O here.

The command line, pytest options and plan files all build these: one set of checks serves all.
Fields made by `option` are the table of guest options (harness/base/guest_options.py).
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

from harness.base.options import (
    BITS,
    FILE,
    FIRMWARE,
    FLAG,
    GUEST_DOORS,
    NAMES,
    NUMBER,
    SIZE,
    TEXT,
    WORDS,
    PackagedFirmware,
    ValueKind,
    choice,
    one_of,
    option,
)
from harness.base.platform import Platform
from harness.base.status import UsageError
from harness.base.units import GIB, MIB, PAGES_PER_UNIT, format_size


class TargetName(enum.StrEnum):
    """The platform that makes memory unaccepted."""

    EMULATED = "emulated"
    SNP = "snp"
    TDX = "tdx"


_EMULATED = (TargetName.EMULATED,)
_CONFIDENTIAL = (TargetName.SNP, TargetName.TDX)


class AcceptMode(enum.StrEnum):
    """The kernel's accept_memory= parameter (mm/page_alloc.c)."""

    LAZY = "lazy"
    EAGER = "eager"


class Route(enum.StrEnum):
    """How an emulated guest gets its table of unaccepted memory."""

    DIRECT = "direct"
    """QEMU -kernel without firmware: the kernel patch makes the table."""
    EFI = "efi"
    """OVMF: the kernel's own EFI stub makes the table."""


class HotplugPolicy(enum.StrEnum):
    """When the emulated platform's hot-added memory is accepted (docs/emulation.md)."""

    OFF = "off"
    """It comes accepted."""
    LAZY = "lazy"
    """As it is allocated."""
    EAGER = "eager"
    """In arch_add_memory()."""
    ONLINE = "online"
    """When its memory block goes online."""


class AutoOnline(enum.StrEnum):
    """What the guest does with a new memory block: the kernel's memhp_default_state=."""

    OFFLINE = "offline"
    ONLINE = "online"
    KERNEL = "online_kernel"
    MOVABLE = "online_movable"
    """Into ZONE_MOVABLE, from which memory can be unplugged again."""


class Accel(enum.StrEnum):
    """QEMU accelerator; AUTO boots a probe guest once to find out (harness/host/accel.py)."""

    AUTO = "auto"
    KVM = "kvm"
    TCG = "tcg"


class Clock(enum.StrEnum):
    """What guest time means: host time, or executed instructions (TCG -icount)."""

    WALL = "wall"
    ICOUNT = "icount"


class SnapshotMode(enum.StrEnum):
    """Whether guests may start from a snapshot (docs/snapshots.md)."""

    AUTO = "auto"
    """Where it is possible; a guest is booted where it is not."""
    OFF = "off"
    """Every guest is booted: for whoever measures the boot."""


@dataclass(frozen=True)
class CostModel:
    """What one emulated accept of a 2 MiB unit costs. A model, not a measurement of hardware."""

    name: str
    ns_per_unit: int
    source: str

    @property
    def ns_per_page(self) -> int:
        """What accepting a page of 4 KiB costs by itself.

        Accepting all memory so took more than 20 times as long as by 2 MiB (cover letter of the
        first patch set for unaccepted memory, 2021-08-10).
        """
        return self.ns_per_unit * 20 // PAGES_PER_UNIT

    def describe(self) -> str:
        """The words to print wherever a figure rests on the model."""
        return f"cost model '{self.name}' ({self.ns_per_unit:,} ns per 2 MiB unit: {self.source})"


_KEXEC_THREAD = "a model after figures published on linux-mm in the kexec thread of 2025-02"
COST_MODELS = {
    "free": CostModel("free", 0, "acceptance costs nothing but the kernel's own work"),
    "tdx": CostModel("tdx", 1_300_000, _KEXEC_THREAD),
    "snp": CostModel("snp", 3_100_000, _KEXEC_THREAD),
}


def cost_model(name: str) -> CostModel:
    """The model called `name`, or a custom one if `name` is a number of ns per unit."""
    if name in COST_MODELS:
        return COST_MODELS[name]
    if name.isdecimal():
        return CostModel("custom", int(name), "given by the user")
    known = ", ".join(COST_MODELS)
    raise UsageError(
        f"unknown cost model {name!r}", hint=f"use one of {known}, or a number of ns per 2 MiB unit"
    )


COST = ValueKind(
    "cost model",
    CostModel,
    lambda text, _: cost_model(text),
    lambda cost: str(cost.ns_per_unit) if cost.name == "custom" else cost.name,
    "MODEL",
)


@dataclass(frozen=True)
class Emulation:
    """Parameters of the emulated platform (docs/emulation.md)."""

    route: Route = option(
        Route.DIRECT,
        one_of(Route, "route"),
        "The guest gets its table of unaccepted memory from the kernel patch (direct), or by OVMF "
        "and the EFI stub (efi).",
        targets=_EMULATED,
    )
    cost: CostModel = option(
        COST_MODELS["free"],
        COST,
        "Accepting 2 MiB takes what this model says: free, tdx, snp, or a number of ns.",
        wish=True,
    )
    strict: bool = option(
        True,
        FLAG,
        "Touching unaccepted memory is caught: it is unmapped, or the platform stops the guest.",
        wish=True,
    )
    zero: bool = option(
        False, FLAG, "Memory is zeroed when it is accepted.", targets=_EMULATED, wish=True
    )
    hotplug: HotplugPolicy = option(
        HotplugPolicy.LAZY,
        one_of(HotplugPolicy, "hotplug policy"),
        "Plugged memory is accepted already (off), as it is allocated, when it is added, or when "
        "its block goes online.",
        targets=_EMULATED,
    )
    start: int = option(
        16 * MIB,
        SIZE,
        "This is the first byte of memory that may be unaccepted.",
        name="unaccepted_start",
        targets=_EMULATED,
    )
    end: int | None = option(
        None,
        SIZE,
        "Memory from this byte on is accepted; without it unaccepted memory ends with RAM.",
        name="unaccepted_end",
        targets=_EMULATED,
    )

    def __post_init__(self) -> None:
        for bound in (self.start, self.end or 0):
            if bound % MIB:
                raise UsageError(
                    f"the range of unaccepted memory is told in MiB: {bound} bytes is no multiple",
                    hint="choose another --unaccepted-start or --unaccepted-end",
                )

    def kernel_parameter(self) -> str:
        """The value for the kernel's unaccepted_emulation= parameter."""
        pairs = {
            "route": self.route.value,
            "from": f"{self.start // MIB}M",
            "cost": str(self.cost.ns_per_unit),
            "zero": str(int(self.zero)),
            "strict": str(int(self.strict)),
            "hotplug": self.hotplug.value,
        }
        if self.end is not None:
            pairs["to"] = f"{self.end // MIB}M"
        return ",".join(f"{key}={value}" for key, value in pairs.items())


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
        targets=(TargetName.SNP,),
        doors=GUEST_DOORS,
    )
    debug: bool = option(
        False,
        FLAG,
        "The host may read the guest's memory: SNP policy bit 19, TDX attribute bit 0.",
        name="guest_debug",
        targets=_CONFIDENTIAL,
        doors=GUEST_DOORS,
    )
    kernel_hashes: KernelHashes = option(
        KernelHashes.AUTO,
        one_of(KernelHashes, "use of kernel hashes"),
        "The firmware gets the hashes of kernel, initrd and command line; auto: where it has room "
        "for them.",
        targets=(TargetName.SNP,),
        doors=GUEST_DOORS,
    )
    cpu_model: str = option(
        "",
        TEXT,
        "QEMU gives the guest this CPU model; without it EPYC-v4 on snp, host on tdx.",
        targets=_CONFIDENTIAL,
        doors=GUEST_DOORS,
    )
    huge_pages: HugePages = option(
        HugePages.NONE,
        one_of(HugePages, "size of huge pages"),
        "Huge pages of this size back the memory that the guest shares with the host.",
        targets=_CONFIDENTIAL,
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


MIN_MEMORY = 256 * MIB
MAX_MEMORY = 1 << 40
"""The emulated platform's table covers 1 TiB (docs/emulation.md)."""
MAX_VCPUS = 255
MAX_SLOTS = 256
"""QEMU's limit on x86 (ACPI_MAX_RAM_SLOTS, include/hw/acpi/acpi.h, 7.2)."""


def _read_target(text: str, _option: str) -> TargetName | None:
    """None for "auto"."""
    return None if text == "auto" else choice(TargetName, text, "target")


_TARGET = replace(
    one_of(TargetName, "target"),
    read=_read_target,
    metavar=f"[auto|{'|'.join(TargetName)}]",
    choices=("auto", *TargetName),
)


@dataclass(frozen=True)
class GuestSpec:
    """One guest: everything about it that a run can vary.

    What a target cannot be is not checked here, but where the two meet: Target.check().
    """

    target: TargetName = option(
        TargetName.EMULATED,
        _TARGET,
        "This platform makes memory unaccepted; auto takes the best that this host can run.",
        moving="auto",
        doors=GUEST_DOORS,
    )
    memory: int = option(
        4 * GIB,
        SIZE,
        "The guest has this much memory at boot; an emulated guest's may exceed the host's.",
        moving="4G, on snp and tdx 16G; for tests 2G and 16G",
    )
    vcpus: int = option(2, NUMBER, "The guest has this many virtual CPUs.")
    accept: AcceptMode = option(
        AcceptMode.LAZY,
        one_of(AcceptMode, "accept mode"),
        "The kernel accepts memory as it is needed (lazy), or all of it at boot (eager).",
    )
    accel: Accel = option(
        Accel.AUTO,
        one_of(Accel, "accelerator"),
        "QEMU runs the guest under this accelerator; auto boots a probe guest once to find out.",
        doors=GUEST_DOORS,
    )
    clock: Clock = option(
        Clock.WALL,
        one_of(Clock, "clock"),
        "Guest time is the host's (wall), or counts the guest's instructions (icount, TCG only).",
        doors=GUEST_DOORS,
    )
    emulation: Emulation = field(default_factory=Emulation)
    numa_nodes: int = option(1, NUMBER, "Memory and vCPUs are spread over this many NUMA nodes.")
    trace_boot: bool = option(
        True,
        FLAG,
        "Every acceptance is recorded from early boot on, by trace_event= on the command line.",
        name="trace",
        doors=GUEST_DOORS,
    )
    by_function: bool = option(
        False,
        FLAG,
        "A QEMU plugin counts the workload's instructions by function, under the icount clock.",
        doors=GUEST_DOORS,
    )
    extra_cmdline: tuple[str, ...] = option(
        (), WORDS, "These words end the guest kernel's command line.", name="append"
    )
    layers: tuple[str, ...] = option(
        (), NAMES, "The guest's image has these optional layers, such as stress-ng."
    )
    maxmem: int | None = option(
        None, SIZE, "The guest can grow to this much memory by hotplug; without it there is none."
    )
    slots: int = option(8, NUMBER, "This many DIMMs can be plugged at a time.", needs="maxmem")
    virtio_mem: int = option(
        0, SIZE, "Each NUMA node's virtio-mem device can grow to this size.", needs="maxmem"
    )
    memmap_on_memory: bool = option(
        False,
        FLAG,
        "Plugged memory holds its own memory map (memory_hotplug.memmap_on_memory=).",
    )
    auto_online: AutoOnline = option(
        AutoOnline.MOVABLE,
        one_of(AutoOnline, "auto-online policy"),
        "The guest does this with new memory blocks (memhp_default_state=); what is movable can be "
        "unplugged again.",
    )
    confidential: Confidential = field(default_factory=Confidential)
    platform: Platform = field(default_factory=Platform)
    """Of tdx and snp under TCG."""

    def __post_init__(self) -> None:
        if not MIN_MEMORY <= self.memory <= MAX_MEMORY:
            raise UsageError(
                f"guest memory {format_size(self.memory)} is outside "
                f"{format_size(MIN_MEMORY)} to {format_size(MAX_MEMORY)}",
                hint="choose another --memory",
            )
        granule = MIB if self.platform_emulated else 2 * MIB
        if self.memory % granule:
            raise UsageError(
                f"guest memory {self.memory} bytes is not a multiple of {format_size(granule)}",
                hint="acceptance works in units of 2 MiB: choose a multiple; tdx and snp under TCG "
                "take odd MiB too, whose tail the EFI stub accepts",
            )
        if not 1 <= self.vcpus <= MAX_VCPUS:
            raise UsageError(f"{self.vcpus} vCPUs: must be 1 to {MAX_VCPUS}")
        if not 1 <= self.numa_nodes <= self.vcpus:
            raise UsageError(f"{self.numa_nodes} NUMA nodes: must be 1 to the number of vCPUs")
        if self.clock is Clock.ICOUNT and self.accel is Accel.KVM:
            raise UsageError(
                "the icount clock needs TCG", hint="leave out --accel, or use --accel=tcg"
            )
        if self.by_function and self.clock is not Clock.ICOUNT:
            raise UsageError(
                "instructions are counted by function under the icount clock only",
                hint="add --clock=icount",
            )
        self._check_hotplug()

    @property
    def platform_emulated(self) -> bool:
        """Whether QEMU emulates the TDX module or the SNP host of this guest."""
        under_tcg = self.accel is Accel.TCG or self.clock is Clock.ICOUNT
        return under_tcg and self.target is not TargetName.EMULATED

    def _check_hotplug(self) -> None:
        if self.maxmem is None:
            for f in fields(self):
                row = f.metadata.get("option")
                if row and row.needs == "maxmem" and getattr(self, f.name) != f.default:
                    name = f.name.replace("_", "-")
                    raise UsageError(
                        f"--{name}: the guest has no room to grow into", hint="give --maxmem"
                    )
            return
        least = self.memory + self.virtio_mem * self.numa_nodes
        if not (self.memory < self.maxmem <= MAX_MEMORY and least <= self.maxmem):
            raise UsageError(
                f"--maxmem {format_size(self.maxmem)} has no room for memory and virtio-mem "
                f"({format_size(least)}), or is above {format_size(MAX_MEMORY)}",
                hint="choose another --maxmem",
            )
        if self.maxmem % (2 * MIB) or self.virtio_mem % (2 * MIB):
            raise UsageError("--maxmem and --virtio-mem must be multiples of 2 MiB")
        if not 0 <= self.slots <= MAX_SLOTS:
            raise UsageError(f"{self.slots} DIMM slots: must be 0 to {MAX_SLOTS}")
