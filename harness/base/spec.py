# SPDX-License-Identifier: MIT
"""What is to be run. Fields made by `option` are the table of guest options (guest_options.py):
the command line, pytest options and plan files build these, and one set of checks serves all."""

import enum
from dataclasses import dataclass, field, fields, replace

from harness.base.confidential import Confidential, Platform
from harness.base.emulation import Emulation
from harness.base.options import (
    FLAG,
    GUEST_DOORS,
    NAMES,
    NUMBER,
    SIZE,
    WORDS,
    Compared,
    choice,
    one_of,
    option,
)
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
    FIRMWARE = "firmware"
    """Each guest boots its kernel, but where firmware that was saved before hands over to it."""
    OFF = "off"
    """Every guest is booted: for whoever measures the boot."""


MIN_MEMORY = 256 * MIB
MAX_MEMORY = 1 << 40
"""The emulated platform's table covers 1 TiB (docs/emulation.md)."""
MAX_VCPUS = 255
MAX_SLOTS = 256
"""QEMU's limit on x86 (ACPI_MAX_RAM_SLOTS, include/hw/acpi/acpi.h, 7.2)."""


_TARGET = replace(
    one_of(TargetName, "target"),  # read as None for "auto"
    read=lambda text: None if text == "auto" else choice(TargetName, text, "target"),
    metavar=f"[auto|{'|'.join(TargetName)}]",
    choices=("auto", *TargetName),
)


@dataclass(frozen=True)
class GuestSpec:
    """One guest: everything about it that a run can vary. What a target cannot be is checked where
    the two meet: Target.check()."""

    target: TargetName = option(
        TargetName.EMULATED,
        _TARGET,
        "This platform makes memory unaccepted; auto takes the best that this host can run.",
        moving="auto",
        doors=GUEST_DOORS,
        compared=Compared(setting=True),
    )
    memory: int = option(
        4 * GIB,
        SIZE,
        "The guest has this much memory at boot; an emulated guest's may exceed the host's.",
        moving="4G, on snp and tdx 16G; for tests 2G and 16G",
        compared=Compared("guest memory", setting=True),
    )
    vcpus: int = option(
        2,
        NUMBER,
        "The guest has this many virtual CPUs.",
        compared=Compared("vCPUs", setting=True),
    )
    accept: AcceptMode = option(
        AcceptMode.LAZY,
        one_of(AcceptMode, "accept mode"),
        "The kernel accepts memory as it is needed (lazy), or all of it at boot (eager).",
        compared=Compared("accept mode"),
    )
    accel: Accel = option(
        Accel.AUTO,
        one_of(Accel, "accelerator"),
        "QEMU runs the guest under this accelerator; auto boots a probe guest once to find out.",
        doors=GUEST_DOORS,
        compared=Compared("accelerator", setting=True),
    )
    clock: Clock = option(
        Clock.WALL,
        one_of(Clock, "clock"),
        "Guest time is the host's (wall), or counts the guest's instructions (icount, TCG only).",
        doors=GUEST_DOORS,
        compared=Compared(setting=True),
    )
    emulation: Emulation = field(default_factory=Emulation)
    numa_nodes: int = option(
        1,
        NUMBER,
        "Memory and vCPUs are spread over this many NUMA nodes.",
        compared=Compared("NUMA nodes", setting=True),
    )
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
        (),
        WORDS,
        "These words end the guest kernel's command line.",
        name="append",
        compared=Compared("kernel command line"),
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
        False, FLAG, "Plugged memory holds its own memory map (memory_hotplug.memmap_on_memory=)."
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
    def under_tcg(self) -> bool:
        """Whether TCG is what is asked for, be it for its clock."""
        return self.accel is Accel.TCG or self.clock is Clock.ICOUNT

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
