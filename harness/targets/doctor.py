# SPDX-License-Identifier: MIT
"""What this machine can run, probe by probe, and how many guests of each kind. Reads only."""

import contextlib
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from harness.base.spec import GuestSpec, TargetName
from harness.base.status import HarnessError, Status
from harness.base.store import Store
from harness.base.units import GIB, format_size
from harness.host.cpu import available_memory
from harness.host.finding import Finding, first_missing, missing, ok, unseen
from harness.host.firmware import PLAIN_IMAGES, FirmwareSource, under_tcg
from harness.host.reserve import needed_memory
from harness.host.view import HostView, reason
from harness.kernel.make import TOOLS, check_tools
from harness.qemu.build import check_tools as check_qemu_tools
from harness.qemu.build import held_qemu
from harness.targets.ready import DEMANDS, HARDWARE, NAMES, Readiness, examine_target

_MIN_DISK = 12 * GIB
"""One unpacked kernel source, its build tree and what is kept of it."""

# Program -> the Debian package that brings it.
_IMAGE_TOOLS = {"busybox": "busybox-static", "dropbear": "dropbear-bin"}


@dataclass(frozen=True)
class Section:
    """One target: its findings, and their sum."""

    target: TargetName
    findings: tuple[Finding, ...]
    status: Status
    summary: str


@dataclass(frozen=True)
class Diagnosis:
    """The whole answer."""

    sections: tuple[Section, ...]

    @property
    def status(self) -> Status:
        """MISS where the target asked for cannot run, or where nothing can."""
        runs = any(section.status is Status.PASS for section in self.sections)
        return Status.PASS if runs else Status.MISS

    @property
    def summary(self) -> str:
        """One line for each target."""
        return "\n".join(section.summary for section in self.sections)


def diagnose(view: HostView, cache: Path, target: TargetName | None = None) -> Diagnosis:
    """Look at everything `target` needs; without one, at every target's needs.

    `cache` is where kernels would be built. A hardware target that was not asked for by name is a
    SKIP where it cannot run.
    """
    if target is not None:
        return Diagnosis((_section(target, view, cache),))
    hardware = [_optional(_section(name, view, cache)) for name in HARDWARE]
    return Diagnosis((_section(TargetName.EMULATED, view, cache), *hardware))


def _section(target: TargetName, view: HostView, cache: Path) -> Section:
    if target is TargetName.EMULATED:
        return _emulated(view, cache)
    return _hardware(examine_target(target, view))


def _optional(section: Section) -> Section:
    findings = tuple(
        replace(f, status=Status.SKIP) if f.status is Status.MISS else f for f in section.findings
    )
    status = Status.SKIP if section.status is Status.MISS else section.status
    return replace(section, findings=findings, status=status)


def _hardware(readiness: Readiness) -> Section:
    name = NAMES[readiness.target]
    blocker = readiness.blocker
    if blocker is not None:
        summary = (
            f"{name} guests cannot run here but under TCG, where QEMU emulates the platform: "
            f"{blocker.name}: {blocker.evidence}"
        )
        return Section(readiness.target, readiness.findings, Status.MISS, summary)
    assert readiness.capacity is not None, "nothing is missing, so the hardware was found"
    summary = f"{name} guests run here: {readiness.capacity.describe()}"
    return Section(readiness.target, readiness.findings, Status.PASS, summary)


def _emulated(view: HostView, cache: Path) -> Section:
    kvm = _kvm(view)
    findings = (
        _qemu(view),
        kvm,
        _memory(view),
        _ovmf(),
        _build_tools(),
        _own_qemu(cache),
        *(_own_firmware(target, view, cache) for target in HARDWARE),
        _image_tools(),
        _disk(cache),
    )
    if first_missing(findings):
        broken = ", ".join(f.name for f in findings if f.status is Status.MISS)
        summary = f"emulated guests cannot run yet: {broken}"
        return Section(TargetName.EMULATED, findings, Status.MISS, summary)
    accelerator = "KVM" if kvm.status is Status.PASS else "TCG"
    summary = f"emulated guests run here, under {accelerator}{_emulated_capacity(view)}"
    return Section(TargetName.EMULATED, findings, Status.PASS, summary)


def _emulated_capacity(view: HostView) -> str:
    guest = GuestSpec()
    limits = {"memory": available_memory(view) // needed_memory(guest)}
    with contextlib.suppress(OSError):
        limits["cores"] = view.number("cpus") // guest.vcpus
    shown = ", ".join(f"{name} {count}" for name, count in limits.items())
    # A machine with one core runs a guest of two vCPUs, only more slowly.
    guests = max(min(limits.values()), 1)
    size = format_size(guest.memory)
    return f": up to {guests} of {size} and {guest.vcpus} vCPUs at a time ({shown})"


def _qemu(view: HostView) -> Finding:
    hint = (
        "install it (Debian, Ubuntu: apt install qemu-system-x86), or set CVM_HARNESS_QEMU to the "
        "binary"
    )
    try:
        version = view.tool("qemu", "--version").partition("\n")[0]
    except OSError as error:
        return missing("QEMU", "run guests", error.strerror or str(error), hint)
    if "version" not in version:
        return missing("QEMU", "run guests", f"it says of itself: {version[:200]!r}", hint)
    return ok("QEMU", "run guests", version)


def _kvm(view: HostView) -> Finding:
    try:
        works, evidence = view.kvm_guest()
    except (OSError, HarnessError) as error:
        works, evidence = False, reason(error) if isinstance(error, OSError) else error.cause
    if works:
        return ok("KVM", "run guests", evidence)
    hint = "guests run under TCG, some ten times slower; for KVM use a host with working /dev/kvm"
    return unseen("KVM", "run guests", evidence, hint)


def _memory(view: HostView) -> Finding:
    free = available_memory(view)
    evidence = f"{format_size(free)} available"
    if free < 2 * GIB:
        return missing("memory", "run guests", evidence, "free at least 2 GiB")
    return ok("memory", "run guests", evidence)


def _ovmf() -> Finding:
    name = "OVMF (efi route)"
    found = next((path for path in PLAIN_IMAGES if path.is_file()), None)
    if found:
        return ok(name, "run guests", str(found))
    return unseen(name, "run guests", "no plain OVMF image", "apt install ovmf")


def _build_tools() -> Finding:
    name, category = "kernel build tools", "build kernels"
    try:
        check_tools()
    except HarnessError as error:
        return missing(name, category, error.cause, error.hint)
    return ok(name, category, ", ".join(TOOLS))


def _own_qemu(cache: Path) -> Finding:
    name, category = "QEMU that emulates TDX and SNP", "emulate platforms"
    try:
        built = held_qemu(Store(cache))
        if built is None:
            check_qemu_tools()
    except HarnessError as error:
        return unseen(name, category, error.cause, error.hint)
    if built is None:
        hint = "cvm-harness build-qemu (the first run that needs it does it, too: some minutes)"
        return unseen(name, category, "not built yet", hint)
    return ok(name, category, f"{built.binary}: {built.version}, built from {built.origin}")


def _own_firmware(target: TargetName, view: HostView, cache: Path) -> Finding:
    name, category = f"firmware for {NAMES[target]} under TCG", "emulate platforms"
    found = FirmwareSource(under_tcg(DEMANDS[target]), view, Store(cache)).foreseen()
    if found is None:
        hint = "the first guest that needs it has OVMF fetched by apt, 7 MB; or name a --firmware"
        return unseen(name, category, "no image here fits", hint)
    return ok(name, category, f"{found.path} ({found.source})")


def _image_tools() -> Finding:
    name, category = "guest image tools", "build the guest image"
    absent = [tool for tool in _IMAGE_TOOLS if not _which(tool)]
    if absent:
        hint = f"apt install {' '.join(_IMAGE_TOOLS[tool] for tool in absent)}"
        return missing(name, category, f"missing: {', '.join(absent)}", hint)
    return ok(name, category, ", ".join(_IMAGE_TOOLS))


def _which(tool: str) -> str | None:
    return shutil.which(tool) or shutil.which(tool, path="/usr/sbin:/sbin")


def _disk(cache: Path) -> Finding:
    place = cache
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    evidence = f"{format_size(free)} free under {cache}"
    if free < _MIN_DISK:
        hint = f"free {format_size(_MIN_DISK)}, run `cvm-harness gc`, or set CVM_HARNESS_CACHE"
        return missing("disk", "build kernels", evidence, hint)
    return ok("disk", "build kernels", evidence)
