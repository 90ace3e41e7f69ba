# SPDX-License-Identifier: MIT
"""What every target provides, and what differs between them is found in their modules alone."""

import abc
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from harness.base.guest_options import check_applies
from harness.base.spec import Accel, AcceptMode, GuestSpec, TargetName
from harness.base.status import NotApplicable, PreconditionError, UsageError
from harness.base.units import MIB, UNIT_SIZE, format_size
from harness.guest.machine import Machine
from harness.host.hardware import SnpHost
from harness.kernel.kernel import Kernel
from harness.qemu.binary import Qemu

TRACE_EVENT = "unaccepted_memory:accept_memory"
HELD_EVENT = "oom:mark_victim"
"""On from boot to end. While any event is on, the kernel hooks sched_switch to learn task names
(tracing_start_cmdline_record()), and unhooks it with the last one: that patches the scheduler's
code under all CPUs in the middle of a run, which costs time and trips QEMU before 8.1."""
BOOT_TRACE_KIB = 64
"""Per-CPU boot trace buffer. Bigger ones make early allocations that themselves accept memory."""


@dataclass(frozen=True)
class BootFiles:
    """Files a guest boots from."""

    kernel: Path
    initrd: Path
    firmware: Path | None = None
    seed: Path | None = None
    """Directory that configures a distribution on its first boot, where one is booted from disk."""
    plugin: Path | None = None
    """QEMU TCG plugin to load (guest-images/tcg-plugin)."""


@dataclass(frozen=True)
class HostFacts:
    """The part of the host that shapes a command line."""

    qemu: Qemu
    accel: Accel
    accel_reason: str
    firmware: Path | None = None
    """Image for -bios, where the guest needs one."""
    kernel_hashes: bool = False
    """Whether the firmware has room for the hashes of a directly booted kernel."""
    snp: SnpHost | None = None
    """On SNP hosts."""
    keys: int | None = None
    """ASIDs or key ids for confidential guests; None where they cannot be counted."""


@dataclass(frozen=True)
class Proof:
    """One piece of evidence that the guest is what its target claims."""

    name: str
    holds: bool
    evidence: str
    hint: str = ""


@dataclass(frozen=True)
class GuestEvidence:
    """What proofs are judged on; gathered from the booted guest."""

    console: str
    """The boot console, as text."""
    cmdline: str
    """/proc/cmdline as the guest reports it."""
    emulation_stats: Mapping[str, int | str]
    """debugfs unaccepted_emulation/stats; empty where the file is missing."""
    nr_unaccepted_at_init: int
    """Pages at the first userspace instruction; -1 where the counter is missing."""
    answers: Mapping[str, str] = field(default_factory=dict)
    """What the target's shell commands print in the guest."""
    qmp: Mapping[str, object] = field(default_factory=dict)
    """What QEMU answers to the target's QMP commands; text where it refuses."""


class Target(abc.ABC):
    """A platform that makes memory unaccepted, and all that differs between platforms.

    What depends on the accelerator is a method that gets the spec: a confidential guest under TCG
    is the same target on a platform that stands in for the hardware.
    """

    name: ClassVar[TargetName]
    title: ClassVar[str]
    """What people call its guests."""
    default_memory: ClassVar[int]
    """Bytes of a guest's memory where nothing else is asked for."""
    suite_memory: ClassVar[int]
    """The same, for tests."""
    emulation_memory: ClassVar[int]
    """The same for both, where all of the platform is emulated: memory is touched slowly there."""
    modelled_cost: ClassVar[str] = "tdx"
    """The cost model of the hardware that its guests stand for."""
    fragments: ClassVar[tuple[str, ...]]
    """Kernel config fragments its guests need beside the common ones."""
    carried_fragments: ClassVar[tuple[str, ...]] = ()
    """Fragments for what carried patches add and its guests can do without: with any of them named,
    a kernel of a version that no patches are carried for is built as it is."""
    binary_kernel: ClassVar[str] = ""
    """A distribution's kernel, as it is, that can be such a guest; "" where there is none."""
    symbols: ClassVar[tuple[str, ...]]
    """Config symbols without which a kernel cannot be such a guest."""
    accept_function: ClassVar[str]
    """The kernel function that does the platform's part of accept_memory()."""
    guest_questions: ClassVar[tuple[str, ...]] = ()
    """Shell commands whose output in the guest its proofs are judged on."""
    qmp_questions: ClassVar[tuple[str, ...]] = ()
    """QMP commands whose answers its proofs are judged on."""
    more_unaccepted: ClassVar[str]
    """What to do where too little is unaccepted."""

    def check(self, spec: GuestSpec) -> None:
        """Raise UsageError where no guest of this target can be what `spec` says."""
        granule = MIB if self.platform_emulated(spec) else UNIT_SIZE
        if spec.memory % granule:
            raise UsageError(
                f"guest memory {spec.memory} bytes is not a multiple of {format_size(granule)}",
                hint="acceptance works in units of 2 MiB: choose a multiple; tdx and snp under TCG "
                "take odd MiB too, whose tail the EFI stub accepts",
            )
        self.check_shape(spec)
        check_applies(spec)

    @abc.abstractmethod
    def check_shape(self, spec: GuestSpec) -> None:
        """The part of `check` that is this target's own."""

    @abc.abstractmethod
    def on_hardware(self, spec: GuestSpec) -> bool:
        """Whether the platform under such a guest is a confidential-computing processor."""

    def platform_emulated(self, spec: GuestSpec) -> bool:
        """Whether QEMU emulates the platform: the TDX module, or the SNP host."""
        return False

    @abc.abstractmethod
    def platform_words(self, spec: GuestSpec) -> str:
        """What makes memory unaccepted, and what of it is emulated, to print with every figure."""

    @abc.abstractmethod
    def cost_words(self, spec: GuestSpec) -> str:
        """Where the price of acceptance comes from, to print with every figure."""

    def provenance(self, spec: GuestSpec) -> str:
        """Both: what a table of figures has to say of them."""
        platform, cost = self.platform_words(spec), self.cost_words(spec)
        return cost if platform in cost else f"{platform}; {cost}"

    @abc.abstractmethod
    def memory_for(self, spec: GuestSpec, testable: int) -> int:
        """Bytes of memory of a guest like `spec` with about `testable` bytes unaccepted at boot."""

    @abc.abstractmethod
    def why_no_hotplug(self, spec: GuestSpec) -> str:
        """Why such a guest cannot have memory plugged; "" where it can."""

    @abc.abstractmethod
    def why_no_snapshot(self, spec: GuestSpec) -> str:
        """Why such a guest cannot be saved and restored; "" where it can."""

    @abc.abstractmethod
    def machine(self, spec: GuestSpec, files: BootFiles, host: HostFacts) -> Machine:
        """QEMU's arguments. Raises HostError where this host cannot run it."""

    @abc.abstractmethod
    def least_unaccepted_pages(self, spec: GuestSpec) -> int:
        """What must be unaccepted at the first userspace instruction of a lazy guest."""

    @abc.abstractmethod
    def proofs(self, evidence: GuestEvidence) -> tuple[Proof, ...]:
        """At least two independent proofs that the guest runs on this platform."""


def need_hotplug(target: Target, spec: GuestSpec) -> None:
    """Raises NotApplicable (SKIP) with the reason where `spec` cannot have memory plugged."""
    if why := target.why_no_hotplug(spec):
        raise NotApplicable(
            f"no memory hotplug on {target.name.value}: {why}",
            hint="use --target=emulated, whose platform accepts hot-added memory",
        )


_SMALL_TCP_HASH = "thash_entries=1024"
"""The kernel sizes its table of TCP connections by memory (net/ipv4/tcp.c, tcp_init(), 6.12). At
64 GiB a read of /proc/net/tcp walks half a million buckets, 50 ms under TCG, and dropbear reads it
for each connection and each command to seed its random numbers (src/dbrandom.c)."""


def kernel_command_line(spec: GuestSpec, *platform: str) -> str:
    """The guest kernel's command line: the common part, the target's part, the user's part."""
    parts = ["console=ttyS0", f"accept_memory={spec.accept.value}", _SMALL_TCP_HASH, *platform]
    if spec.trace_boot:
        parts += [
            f"trace_event={TRACE_EVENT},{HELD_EVENT}",
            f"trace_buf_size={BOOT_TRACE_KIB}k",
            "trace_clock=mono",  # the clock of the samplers, so that one axis serves all
        ]
    if spec.maxmem is not None:
        parts += [
            f"memhp_default_state={spec.auto_online.value}",
            f"memory_hotplug.memmap_on_memory={'Y' if spec.memmap_on_memory else 'N'}",
        ]
    return " ".join([*parts, *spec.extra_cmdline])


def check_kernel(target: Target, kernel: Kernel) -> None:
    """Raise PreconditionError where `kernel` is known to lack what `target`'s guests need.

    A prebuilt kernel without an embedded configuration is given its chance: the proofs decide.
    """
    missing = [f"CONFIG_{symbol}" for symbol in target.symbols if kernel.has(symbol) is False]
    if missing:
        raise PreconditionError(
            f"the kernel {kernel.release} was built without {', '.join(missing)}",
            hint="let the harness build one with these: --kernel debian:6.12, or a kernel tree; or "
            "give a distribution's kernel to --target=tdx or --target=snp",
        )


def lazy_in_force(
    evidence: GuestEvidence, accept: AcceptMode, least_pages: int = 1, hint: str = ""
) -> Proof:
    """Whether memory really was left unaccepted (lazy), or really was not (eager)."""
    pages = evidence.nr_unaccepted_at_init
    if accept is AcceptMode.EAGER:
        return Proof("eager acceptance", pages == 0, f"nr_unaccepted at init: {pages} pages")
    eager = "accept_memory=eager" in evidence.cmdline.split()
    shown = f"nr_unaccepted at init: {pages} pages"
    if 0 <= pages < least_pages and least_pages > 1:
        shown += f", fewer than the {least_pages} that make it worth testing"
    if eager:
        shown += ", and accept_memory=eager is on the command line"
    advice = hint if pages >= 0 and not eager else ""  # more memory would not help those
    return Proof("lazy acceptance", pages >= least_pages and not eager, shown, advice)
