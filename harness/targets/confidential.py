# SPDX-License-Identifier: MIT
"""What TDX and SEV-SNP guests have in common: -bios, a kernel or a disk, what they cannot do, their
proofs."""

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar

from harness.base.confidential import HugePages, Platform
from harness.base.emulation import Emulation
from harness.base.spec import Accel, AcceptMode, GuestSpec
from harness.base.status import HostError, UsageError
from harness.base.units import GIB, MIB, PAGE_SIZE, format_size
from harness.targets.base import BootFiles, GuestEvidence, Proof, Target, kernel_command_line
from harness.targets.shape import memory_backends

Args = list[tuple[str, ...]]

CPU_FLAGS = "grep -m1 -w '^flags' /proc/cpuinfo"
DEVICES = "ls /dev/sev-guest /dev/tdx_guest 2>/dev/null"
QUESTIONS = (CPU_FLAGS, DEVICES)
"""Asked of the guest, by shell."""

MORE_UNACCEPTED = (
    "give the guest more memory (--memory), or other firmware (--firmware): some accepts all of it "
    "before the kernel starts; docs/hardware.md"
)
_EFI_TABLE = re.compile(r"Unaccepted=0x[0-9a-f]+")
_QCOW2_MAGIC = b"QFI\xfb"


LOW = 2 * GIB
"""QEMU's q35 puts this much of the memory below 4 GiB, where the firmware accepts everything."""
LEAST_MEMORY = 4 * GIB
LOW_UNDER_TCG = 512 * MIB
"""What a guest smaller than that has below 4 GiB under TCG: enough for OVMF."""
_NO_ACCEPT = (
    "Linux 6.12 and 7.3 have no acceptance for hot-added memory (arch_add_memory() in "
    "arch/x86/mm/init_64.c does not accept, and puts nothing into the table of unaccepted memory)"
)


class ConfidentialTarget(Target):
    """TDX or SEV-SNP."""

    emulated_part: ClassVar[str]
    """What stands in under TCG."""
    default_memory = 16 * GIB
    suite_memory = 16 * GIB
    emulation_memory = 2 * GIB
    binary_kernel = "debian-binary:6.12"
    more_unaccepted = MORE_UNACCEPTED
    guest_questions = QUESTIONS
    # One kernel serves both, as distributions' kernels do.
    fragments = ("tdx", "snp")
    carried_fragments = ("hooks",)

    def check_shape(self, spec: GuestSpec) -> None:
        """Memory above 4 GiB, and nothing that only a kernel started by QEMU can have."""
        hardware = self.on_hardware(spec)
        if hardware and (spec.platform != Platform() or spec.emulation != Emulation()):
            raise UsageError(
                f"{self.title} hardware has no cost model and cannot be told what to do",
                hint="leave out --cost, --no-strict, --on-violation, --intercepts, --accept-level, "
                "--gpaw and --faults, or use --accel=tcg",
            )
        if hardware and spec.memory < LEAST_MEMORY:
            raise UsageError(
                f"an {self.name.value} guest of {format_size(spec.memory)} has nothing to accept: "
                "its firmware accepts all memory below 4 GiB",
                hint=f"give at least {format_size(LEAST_MEMORY)} with --memory, or use "
                "--accel=tcg, where memory lies above 4 GiB however little there is",
            )
        if spec.confidential.disk and (spec.accept is AcceptMode.EAGER or spec.extra_cmdline):
            raise UsageError(
                "a disk image has its own kernel command line: no --accept=eager and no --append",
                hint="change it in the image, or boot a kernel instead",
            )

    def on_hardware(self, spec: GuestSpec) -> bool:
        """Under KVM, or what finds KVM."""
        return not self.platform_emulated(spec)

    def platform_emulated(self, spec: GuestSpec) -> bool:
        """Under TCG."""
        return spec.under_tcg

    def platform_words(self, spec: GuestSpec) -> str:
        """The hardware, or what stands in for it."""
        if self.on_hardware(spec):
            return f"{self.title} hardware"
        return f"{self.title} under TCG ({self.emulated_part})"

    def cost_words(self, spec: GuestSpec) -> str:
        """The hardware's own, or the cost model's."""
        if self.on_hardware(spec):
            return f"measured on {self.name.value} hardware"
        return f"{self.platform_words(spec)}; {spec.emulation.cost.describe()}"

    def memory_for(self, spec: GuestSpec, testable: int) -> int:
        """As much above 4 GiB, beside what is below, which the firmware accepts itself."""
        if self.platform_emulated(spec) and testable + LOW_UNDER_TCG < LEAST_MEMORY:
            return testable + LOW_UNDER_TCG
        return max(testable + LOW, LEAST_MEMORY)

    def why_no_hotplug(self, spec: GuestSpec) -> str:
        """No kernel accepts plugged memory."""
        return f"{_NO_ACCEPT}: a {self.title} guest would die at the first touch of a plugged page"

    def why_no_snapshot(self, spec: GuestSpec) -> str:
        """Of hardware QEMU cannot read what it would have to save."""
        if spec.accel is Accel.TCG:
            return ""
        return f"no {self.name.value} guest can be saved: its memory is encrypted"

    def least_unaccepted_pages(self, spec: GuestSpec) -> int:
        """A quarter of what lies above 4 GiB: less is firmware or kernel accepting ahead."""
        if spec.accept is AcceptMode.EAGER:
            return 0
        if self.platform_emulated(spec):
            return 1  # how much lies above 4 GiB is the user's choice
        return (spec.memory - LOW) // 4 // PAGE_SIZE


def time_scale(spec: GuestSpec) -> float:
    """Eager acceptance has been seen to take 1.8 s for each GiB (SNP, 128 GiB in 227 s)."""
    return 1.0 + spec.memory / (64 * GIB)


def backends(spec: GuestSpec, plain: str) -> Args:
    """Memory backends: `plain`, or huge pages where they are asked for.

    They back what the guest shares with the host. Its private memory is KVM's guest_memfd.
    """
    huge = spec.confidential.huge_pages
    if huge is HugePages.NONE:
        return memory_backends(spec, lambda node, size: plain.format(node=node, size=size))
    options = f"share=on,hugetlb=on,hugetlbsize={huge.value},reserve=off"
    return memory_backends(
        spec, lambda node, size: f"memory-backend-memfd,id=ram{node},size={size}M,{options}"
    )


def machine_option(spec: GuestSpec, *options: str) -> tuple[str, str]:
    """-machine q35 with the confidential-guest object and the memory."""
    memory = ("memory-backend=ram0",) if spec.numa_nodes == 1 else ()
    return "-machine", ",".join(["q35", *options, "confidential-guest-support=cgs0", *memory])


def firmware_option(files: BootFiles) -> tuple[str, str]:
    """-bios: pflash would need KVM's read-only memory, which these guests do not have."""
    if files.firmware is None:
        raise HostError("no firmware was found for this guest", hint="name one with --firmware")
    return "-bios", str(files.firmware)


def boot_options(spec: GuestSpec, files: BootFiles, virtio: str, words: Iterable[str] = ()) -> Args:
    """What the firmware starts: a kernel handed over by QEMU, or a distribution's disk.

    `words` are more of the kernel's command line.
    """
    disk = spec.confidential.disk
    if disk is None:
        return [
            ("-kernel", str(files.kernel)),
            ("-initrd", str(files.initrd)),
            ("-append", kernel_command_line(spec, *words)),
        ]
    options = f",{virtio}" if virtio else ""
    image = f"file={_quoted(disk)},format={image_format(disk)}"
    args: Args = [
        # Nothing is written to the image: QEMU keeps changes in an unlinked temporary file.
        ("-drive", f"if=none,id=disk0,{image},snapshot=on"),
        ("-device", f"virtio-blk-pci,drive=disk0,bootindex=0{options}"),
    ]
    if files.seed is not None:
        args += [
            ("-blockdev", seed_node(files.seed)),
            ("-device", f"virtio-blk-pci,drive=seed0{options}"),
        ]
    return args


def seed_node(directory: Path) -> str:
    """A FAT disk made of a directory by QEMU; cloud-init looks for the label (NoCloud)."""
    node = {
        "driver": "vvfat",
        "node-name": "seed0",
        "dir": str(directory),
        "label": "cidata",
        "read-only": True,
    }
    return json.dumps(node, separators=(",", ":"))


def _quoted(value: Path | str) -> str:
    return str(value).replace(",", ",,")


def image_format(disk: Path) -> str:
    """qcow2 or raw, by the file's first bytes: QEMU must not be left to guess a raw image's."""
    with disk.open("rb") as file:
        return "qcow2" if file.read(4) == _QCOW2_MAGIC else "raw"


def console_proof(name: str, evidence: GuestEvidence, patterns: Iterable[str]) -> Proof:
    """That the guest's kernel announced its platform: the first line that has a pattern."""
    for pattern in patterns:
        match = re.search(rf"^.*{pattern}.*$", evidence.console, re.MULTILINE)
        if match:
            return Proof(name, True, match[0].strip())
    return Proof(name, False, f"no line on the console matches {' or '.join(patterns)}")


def table_proof(evidence: GuestEvidence) -> Proof:
    """That firmware left memory unaccepted, and the stub made a table of it."""
    name = "table of unaccepted memory"
    match = _EFI_TABLE.search(evidence.console)
    if match:
        return Proof(name, True, f"the kernel's efi line has {match[0]}")
    return Proof(
        name,
        False,
        "the kernel's efi line has no Unaccepted=: the firmware left nothing unaccepted, or the "
        "kernel lacks CONFIG_UNACCEPTED_MEMORY",
        MORE_UNACCEPTED,
    )
