# SPDX-License-Identifier: MIT
"""What is to be run: frozen types shared by every package. No I/O here.

The command line, pytest options and plan files all build these: one set of checks serves all.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from pathlib import Path

from harness.base.status import UsageError
from harness.base.units import GIB, MIB, format_size


class TargetName(enum.StrEnum):
    """The platform that makes memory unaccepted."""

    EMULATED = "emulated"
    SNP = "snp"
    TDX = "tdx"


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


@dataclass(frozen=True)
class Emulation:
    """Parameters of the emulated platform (docs/emulation.md); ignored on hardware targets."""

    route: Route = Route.DIRECT
    cost: CostModel = COST_MODELS["free"]
    zero: bool = False
    strict: bool = True
    hotplug: HotplugPolicy = HotplugPolicy.LAZY
    start: int = 16 * MIB
    """First byte that may be unaccepted."""
    end: int | None = None
    """End of the unaccepted range in bytes; None: end of RAM."""

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
    """Parameters of the hardware targets (docs/hardware.md); the emulated one has no use for them,
    except `firmware`, which its efi route takes."""

    firmware: Path | None = None
    """Image for -bios; None: found by QEMU's firmware descriptors."""
    disk: Path | None = None
    """A distribution's disk image to boot instead of a kernel."""
    snp_policy: int = SNP_POLICY
    debug: bool = False
    """The host may read the guest's memory: SNP policy bit 19, TDX attribute bit 0."""
    kernel_hashes: KernelHashes = KernelHashes.AUTO
    cpu_model: str = ""
    """QEMU CPU model; "": what the target is known to work with."""
    huge_pages: HugePages = HugePages.NONE

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
MIN_HARDWARE_MEMORY = 4 * GIB
"""QEMU's q35 puts 2 GiB of it below 4 GiB, where the firmware accepts everything itself."""
MAX_MEMORY = 1 << 40
"""The emulated platform's table covers 1 TiB (docs/emulation.md)."""
MAX_VCPUS = 255
MAX_SLOTS = 256
"""QEMU's limit on x86 (ACPI_MAX_RAM_SLOTS, include/hw/acpi/acpi.h, 7.2)."""


@dataclass(frozen=True)
class GuestSpec:
    """One guest: everything about it that a run can vary."""

    target: TargetName = TargetName.EMULATED
    memory: int = 4 * GIB
    """Boot memory in bytes."""
    vcpus: int = 2
    accept: AcceptMode = AcceptMode.LAZY
    accel: Accel = Accel.AUTO
    clock: Clock = Clock.WALL
    emulation: Emulation = field(default_factory=Emulation)
    numa_nodes: int = 1
    trace_boot: bool = True
    """Record acceptance from the first moments of boot (trace_event= on the command line)."""
    by_function: bool = False
    """Count the workload's instructions by function (QEMU TCG plugin; icount clock)."""
    extra_cmdline: tuple[str, ...] = ()
    layers: tuple[str, ...] = ()
    """Optional image layers beside the base image, e.g. "stress-ng"."""
    maxmem: int | None = None
    """Bytes of memory the guest can grow to by hotplug; None: no hotplug."""
    slots: int = 0
    """How many DIMMs can be plugged at a time."""
    virtio_mem: int = 0
    """Bytes that each NUMA node's virtio-mem device can grow to; 0: no such devices."""
    memmap_on_memory: bool = False
    """Whether plugged memory holds its own memory map (memory_hotplug.memmap_on_memory=)."""
    auto_online: AutoOnline = AutoOnline.MOVABLE
    confidential: Confidential = field(default_factory=Confidential)

    def __post_init__(self) -> None:
        if not MIN_MEMORY <= self.memory <= MAX_MEMORY:
            raise UsageError(
                f"guest memory {format_size(self.memory)} is outside "
                f"{format_size(MIN_MEMORY)} to {format_size(MAX_MEMORY)}",
                hint="choose another --memory",
            )
        if self.memory % (2 * MIB):
            raise UsageError(
                f"guest memory {self.memory} bytes is not a multiple of 2 MiB",
                hint="acceptance works in units of 2 MiB: choose a multiple",
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
        self._check_platform()

    @property
    def cost_words(self) -> str:
        """Where the price of acceptance comes from, to print with every figure."""
        if self.target is TargetName.EMULATED:
            return self.emulation.cost.describe()
        return f"measured on {self.target.value} hardware"

    def _check_platform(self) -> None:
        name = self.target.value
        if self.target is TargetName.EMULATED:
            if self.confidential.disk:
                raise UsageError(
                    "a disk image has its own kernel, which has no emulated platform",
                    hint="use --target=snp or --target=tdx, or leave out --disk",
                )
            return
        if self.memory < MIN_HARDWARE_MEMORY:
            raise UsageError(
                f"an {name} guest of {format_size(self.memory)} has nothing to accept: its "
                "firmware accepts all memory below 4 GiB",
                hint=f"give at least {format_size(MIN_HARDWARE_MEMORY)} with --memory",
            )
        if self.accel is Accel.TCG or self.clock is Clock.ICOUNT:
            raise UsageError(
                f"{name} guests need KVM and the wall clock",
                hint="leave out --accel and --clock, or use --target=emulated",
            )
        if self.confidential.disk and (self.accept is AcceptMode.EAGER or self.extra_cmdline):
            raise UsageError(
                "a disk image has its own kernel command line: no --accept=eager and no --append",
                hint="change it in the image, or boot a kernel instead",
            )

    def _check_hotplug(self) -> None:
        if self.maxmem is None:
            if self.slots or self.virtio_mem:
                raise UsageError(
                    "DIMM slots and virtio-mem need room to grow into", hint="give --maxmem"
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
