# SPDX-License-Identifier: MIT
"""The emulated target: the kernel's own lazy acceptance over the carried emulation patch."""

from pathlib import Path

from harness.base.emulation import Route
from harness.base.spec import Accel, AcceptMode, Clock, GuestSpec, TargetName
from harness.base.status import HostError, UsageError
from harness.base.units import GIB, MIB, UNIT_SIZE
from harness.guest.machine import Machine
from harness.host.firmware import PLAIN_IMAGES
from harness.targets.base import (
    BootFiles,
    GuestEvidence,
    HostFacts,
    Proof,
    Target,
    kernel_command_line,
)
from harness.targets.shape import memory_backends, memory_option, sockets

_MACHINE = "q35"
REPEATABLE = (
    "norandmaps",
    "nokaslr",
    "nowatchdog",
    "ipv6.disable=1",
    "sysctl.vm.stat_interval=3600",
    "sysctl.vm.compaction_proactiveness=0",
    "harness.still",
)
"""For costs that are the same each time. Where a process's maps are decides how many entries of a
maple tree's node a page fault looks at: 14 instructions a fault, 0.2 % of a first touch. And once a
second the kernel shrinks each CPU's list of free pages (mm/vmstat.c, refresh_cpu_vm_stats(), 6.12);
where in a workload that falls is chance. The counters are folded when they are read. What wakes up
by itself beside a workload is off as well: the lockup detector's stopper, kcompactd twice a second,
and IPv6, which after a restore asks for routers and gives itself an address (100,000 instructions
where packets are bounced). harness.still is for the guest's init and its workloads
(guest-images/minimal/src/still.c)."""


def find_firmware() -> Path:
    """A plain OVMF image for -bios. Raises HostError naming what was looked for."""
    for path in PLAIN_IMAGES:
        if path.is_file():
            return path
    raise HostError(
        "the efi route needs OVMF, and none of these exists: " + ", ".join(map(str, PLAIN_IMAGES)),
        hint="install it (Debian, Ubuntu: apt install ovmf), have it fetched with "
        "--firmware=debian, or use --route=direct",
    )


class EmulatedTarget(Target):
    """Runs anywhere: TCG or KVM, no TDX or SEV-SNP needed."""

    name = TargetName.EMULATED
    title = "emulated"
    default_memory = 4 * GIB
    suite_memory = 2 * GIB
    emulation_memory = 4 * GIB
    fragments = ("emulated", "hotplug")
    symbols = ("UNACCEPTED_MEMORY", "UNACCEPTED_MEMORY_EMULATION")
    accept_function = "unaccepted_emulation_accept"
    more_unaccepted = (
        "give the guest more memory (--memory): its boot has accepted all there was, some hundred "
        "MiB, with KASAN an eighth of memory more; docs/findings/early-acceptance.md"
    )

    def check_shape(self, spec: GuestSpec) -> None:
        """Its kernel has to be ours."""
        if spec.confidential.disk:
            raise UsageError(
                "a disk image has its own kernel, which has no emulated platform",
                hint="use --target=snp or --target=tdx, or leave out --disk",
            )

    def on_hardware(self, spec: GuestSpec) -> bool:
        """Never."""
        return False

    def platform_words(self, spec: GuestSpec) -> str:
        """The carried patch, and who made the table of unaccepted memory."""
        table = ", table by the EFI stub" if spec.emulation.route is Route.EFI else ""
        return f"emulated platform (kernel patch{table})"

    def cost_words(self, spec: GuestSpec) -> str:
        """The cost model's."""
        return spec.emulation.cost.describe()

    def memory_for(self, spec: GuestSpec, testable: int) -> int:
        """Nearly all of it is unaccepted."""
        return testable

    def why_no_hotplug(self, spec: GuestSpec) -> str:
        """It can."""
        return ""

    def why_no_snapshot(self, spec: GuestSpec) -> str:
        """Under KVM a guest's state is the processor's as well."""
        if spec.accel is Accel.TCG:
            return ""
        return f"only guests under TCG are saved, not under {spec.accel.value}"

    def machine(self, spec: GuestSpec, files: BootFiles, host: HostFacts) -> Machine:
        """QEMU's arguments for an emulated guest (QEMU system emulation manual, invocation)."""
        args: list[tuple[str, ...]] = [*accelerator(spec, host), ("-cpu", _cpu(host))]
        machine = [_MACHINE, "vmport=off"]
        if spec.numa_nodes == 1:
            machine.append("memory-backend=ram0")
        args += [
            ("-machine", ",".join(machine)),
            ("-smp", f"{spec.vcpus},sockets={sockets(spec)}"),
            ("-m", memory_option(spec)),
            *memory_backends(spec, memory_backend),
            *_virtio_mem(spec),
        ]
        if files.plugin:
            args.append(("-plugin", f"file={files.plugin}"))
        if spec.emulation.route is Route.EFI:
            firmware = files.firmware or find_firmware()
            args.append(("-bios", str(firmware)))
        args += [
            ("-kernel", str(files.kernel)),
            ("-initrd", str(files.initrd)),
            ("-append", self.command_line(spec)),
        ]
        return Machine(
            binary=host.qemu.binary,
            args=tuple(args),
            time_scale=time_scale(spec, host),
            accept_at_boot_s=accept_at_boot_s(spec),
            stale_code=host.accel is not Accel.KVM
            and spec.clock is not Clock.ICOUNT
            and spec.vcpus > 1
            and host.qemu.number < (8, 1),
        )

    def command_line(self, spec: GuestSpec) -> str:
        """The guest kernel's command line."""
        return kernel_command_line(
            spec,
            f"unaccepted_emulation={spec.emulation.kernel_parameter()}",
            # On a busy host ticks come late under TCG, and the kernel's test of them, which is one
            # of boards, panics (arch/x86/kernel/apic/io_apic.c, check_timer(), 6.12 and 7.3).
            "no_timer_check",
            *(REPEATABLE if spec.clock is Clock.ICOUNT else ()),
        )

    def least_unaccepted_pages(self, spec: GuestSpec) -> int:
        """Any: tests say for themselves how much they need."""
        return 1

    def proofs(self, evidence: GuestEvidence) -> tuple[Proof, ...]:
        """The kernel's own announcement on the console, and the back end's state in debugfs."""
        line = next(
            (
                line.strip()
                for line in evidence.console.splitlines()
                if "unaccepted_emulation: active" in line
            ),
            "",
        )
        stats = evidence.emulation_stats
        return (
            Proof(
                "emulation announced on the console",
                bool(line),
                line or "no line 'unaccepted_emulation: active' on the console",
            ),
            Proof(
                "emulation active in debugfs",
                stats.get("active") == 1,
                f"active={stats.get('active')} units_marked={stats.get('units_marked')}"
                if stats
                else "no unaccepted_emulation/stats in debugfs",
            ),
        )


def accept_at_boot_s(spec: GuestSpec) -> float:
    """Seconds that a guest pays to accept all its memory on one CPU, if it does so at boot."""
    if spec.accept is not AcceptMode.EAGER:
        return 0.0
    return spec.memory // UNIT_SIZE * spec.emulation.cost.ns_per_unit / 1e9


def accelerator(spec: GuestSpec, host: HostFacts) -> list[tuple[str, ...]]:
    """-accel, and -icount where guest time is to be instructions."""
    if host.accel is Accel.KVM:
        return [("-accel", "kvm")]
    if spec.clock is Clock.ICOUNT:
        return [("-accel", "tcg,thread=single"), ("-icount", "shift=0,sleep=off")]
    return [("-accel", "tcg,thread=multi")]


def _cpu(host: HostFacts) -> str:
    # la57 makes every TCG page walk one level longer and no guest here needs it.
    return "host" if host.accel is Accel.KVM else "max,la57=off"


def memory_backend(node: int, mebibytes: int) -> str:
    """-object for a node's memory. reserve=off lets a guest be larger than the host: what it never
    touches costs nothing."""
    return f"memory-backend-memfd,id=ram{node},size={mebibytes}M,reserve=off"


def _virtio_mem(spec: GuestSpec) -> list[tuple[str, ...]]:
    """A device for each node; its size is 0 until `qom-set` asks for more (guest/hotplug.py)."""
    args: list[tuple[str, ...]] = []
    for node in range(spec.numa_nodes if spec.virtio_mem else 0):
        size = spec.virtio_mem // MIB
        args += [
            ("-object", f"memory-backend-memfd,id=vmem{node}ram,size={size}M,reserve=off"),
            (
                "-device",
                f"virtio-mem-pci,id=vmem{node},memdev=vmem{node}ram,node={node},requested-size=0",
            ),
        ]
    return args


def time_scale(spec: GuestSpec, host: HostFacts) -> float:
    """Deadlines are written for KVM; TCG is some ten times slower, icount three times more."""
    if host.accel is Accel.KVM:
        return 1.0
    return 6.0 if spec.clock is Clock.ICOUNT else 2.0
