# SPDX-License-Identifier: MIT
"""What this host can run, target by target: every probe, what stands in the way, how many fit."""

import contextlib
import functools
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from harness.base.spec import Accel, TargetName
from harness.base.status import HostError, UsageError
from harness.base.units import GIB, format_size
from harness.host import firmware
from harness.host.cpu import available_memory
from harness.host.finding import Finding, first_missing, missing, ok, unseen
from harness.host.firmware import Firmware
from harness.host.hardware import SnpHost, TdxHost, probe_snp, probe_tdx
from harness.host.view import HostView, LiveHost, reason
from harness.qemu.binary import parse_version

HARDWARE = (TargetName.SNP, TargetName.TDX)
"""In the order in which "auto" prefers them; no host has both."""
NAMES = {TargetName.SNP: "SEV-SNP", TargetName.TDX: "TDX", TargetName.EMULATED: "emulated"}
GUEST_MEMORY = 16 * GIB
GUEST_VCPUS = 2
"""The guest that capacity is counted in."""

_QEMU = {
    TargetName.SNP: ("sev-snp-guest", (9, 1), "9.1"),
    TargetName.TDX: ("tdx-guest", (10, 1), "10.1"),
}
DEMANDS = {TargetName.SNP: firmware.SNP, TargetName.TDX: firmware.TDX}


@dataclass(frozen=True)
class Capacity:
    """How many guests of GUEST_MEMORY and GUEST_VCPUS fit, and what limits their number."""

    guests: int
    limits: dict[str, int]
    """Resource -> guests it is enough for; unknown ones are left out."""

    def describe(self) -> str:
        """As in "up to 3 guests of 16 GiB and 2 vCPUs (memory 3, cores 32, ASIDs 99)"."""
        limits = ", ".join(f"{name} {count}" for name, count in self.limits.items())
        return (
            f"up to {self.guests} guests of {format_size(GUEST_MEMORY)} and {GUEST_VCPUS} vCPUs "
            f"at a time ({limits})"
        )


@dataclass(frozen=True)
class Readiness:
    """One hardware target on one host."""

    target: TargetName
    findings: tuple[Finding, ...]
    snp: SnpHost | None = None
    tdx: TdxHost | None = None
    firmware: Firmware | None = None
    capacity: Capacity | None = None

    @property
    def blocker(self) -> Finding | None:
        """What stands in the way; None where the target can run."""
        return first_missing(self.findings)


def examine_target(
    target: TargetName, view: HostView, *, image: Path | None = None, disk: bool = False
) -> Readiness:
    """Every probe for a hardware target. `image` is a firmware asked for by name; with `disk` the
    guest boots a signed distribution, so that firmware with Secure Boot keys will do."""
    findings, snp, tdx = _hardware(target, view)
    findings.append(_qemu(target, view))
    demand = replace(DEMANDS[target], unsigned_kernel=not disk)
    found: Firmware | None = None
    try:
        found = firmware.find_firmware(demand, view, image)
        findings.append(ok("firmware", "firmware", f"{found.path} ({found.source})"))
        findings += [unseen("firmware passed over", "firmware", str(r)) for r in found.rejected]
    except (HostError, UsageError) as error:
        evidence = "; ".join([error.cause, *error.details])
        findings.append(missing("firmware", "firmware", evidence, error.hint))
    capacity = _capacity(view, snp, tdx)
    findings.append(_memory(view))
    findings.append(_memlock(view))
    return Readiness(target, tuple(findings), snp, tdx, found, capacity)


def _hardware(
    target: TargetName, view: HostView
) -> tuple[list[Finding], SnpHost | None, TdxHost | None]:
    if target is TargetName.SNP:
        findings, snp = probe_snp(view)
        return findings, snp, None
    findings, tdx = probe_tdx(view)
    return findings, None, tdx


def _qemu(target: TargetName, view: HostView) -> Finding:
    kind, least, words = _QEMU[target]
    name = f"QEMU has {kind}"
    hint = f"install QEMU {words} or later, or name it with CVM_HARNESS_QEMU"
    try:
        version = view.tool("qemu", "--version")
        objects = view.tool("qemu", "-object", "help")
    except OSError as error:
        return missing(name, "QEMU", f"QEMU cannot be asked: {reason(error)}", hint)
    match = re.search(r"version (\S+)", version)
    shown = match[1] if match else "of unknown version"
    if kind not in objects.split():
        return missing(name, "QEMU", f"QEMU {shown} has no object {kind}", hint)
    if match and parse_version(match[1]) < least:
        return missing(name, "QEMU", f"QEMU {shown} is too old", hint)
    return ok(name, "QEMU", f"QEMU {shown}")


def _memory(view: HostView) -> Finding:
    free = available_memory(view)
    if not free:
        return unseen("memory", "room", "/proc/meminfo cannot be read")
    evidence = f"{format_size(free)} available"
    if free < GUEST_MEMORY:
        hint = f"free some, or run smaller guests than {format_size(GUEST_MEMORY)} with --memory"
        return unseen("memory", "room", evidence, hint)
    return ok("memory", "room", evidence)


def _memlock(view: HostView) -> Finding:
    try:
        limit = view.number("memlock_bytes")
    except OSError as error:
        return unseen("locked memory", "room", reason(error))
    shown = "no limit" if limit < 0 else format_size(limit)
    return ok("locked memory", "room", f"RLIMIT_MEMLOCK: {shown} (private memory does not count)")


def _capacity(view: HostView, snp: SnpHost | None, tdx: TdxHost | None) -> Capacity | None:
    if snp is None and tdx is None:
        return None
    limits: dict[str, int] = {}
    if free := available_memory(view):
        limits["memory"] = free // GUEST_MEMORY
    with contextlib.suppress(OSError):
        limits["cores"] = view.number("cpus") // GUEST_VCPUS
    if snp and snp.asids:
        limits["ASIDs"] = snp.asids - max(snp.asids_used, 0)
    if tdx and tdx.keyids:
        limits["key ids"] = tdx.keyids - max(tdx.keyids_used, 0)
    return Capacity(min(limits.values(), default=0), limits)


def require(readiness: Readiness) -> Readiness:
    """Raise HostError (MISS) naming the first probe that failed, with the others as details."""
    blocker = readiness.blocker
    if blocker is None:
        return readiness
    rest = [f for f in readiness.findings if f.status is blocker.status and f is not blocker]
    raise HostError(
        f"this host cannot run {NAMES[readiness.target]} guests: {blocker.name}: "
        f"{blocker.evidence}",
        hint=blocker.hint,
        details=[f"also: {f.name}: {f.evidence} ({f.hint})" for f in rest],
    )


@functools.cache
def accelerator_for(
    target: TargetName, make_view: Callable[[], HostView] = LiveHost
) -> tuple[Accel, str]:
    """What runs guests of a confidential target that was asked for: KVM where this host has the
    hardware, else TCG, under which QEMU emulates the platform. And why."""
    blocker = first_missing(_hardware(target, make_view())[0])
    if blocker is None:
        return Accel.KVM, f"asked for; this host has {NAMES[target]}"
    why = f"no {NAMES[target]} hardware: {blocker.name}: {blocker.evidence}"
    return Accel.TCG, f"asked for; under TCG: {why}"


@functools.cache
def best_target(make_view: Callable[[], HostView] = LiveHost) -> tuple[TargetName, str]:
    """What "auto" means on this host, and why."""
    view = make_view()
    reasons = []
    for target in HARDWARE:
        # Asking QEMU costs tenths of a second: not where the hardware has said no.
        blocker = first_missing(_hardware(target, view)[0]) or examine_target(target, view).blocker
        if blocker is None:
            return target, f"auto: this host runs {NAMES[target]} guests"
        reasons.append(f"no {NAMES[target]}: {blocker.name}: {blocker.evidence}")
    return TargetName.EMULATED, f"auto: {'; '.join(reasons)}"
