# SPDX-License-Identifier: MIT
"""Can this host run SEV-SNP guests? From KVM's own answer down to the BIOS option to change.

The order is that of arch/x86/kvm/svm/sev.c: sev_hardware_setup() and bsp_determine_snp() in
arch/x86/kernel/cpu/amd.c (7.3). KVM's answer decides; the rest explains a "no".
"""

from __future__ import annotations

from dataclasses import dataclass

from harness.base.status import Status
from harness.host import devices
from harness.host.cpu import (
    Cpu,
    is_on,
    kernel_is_older,
    kernel_release,
    misc_cgroup,
    parameter,
    read_cpu,
)
from harness.host.devices import Registers, VmType
from harness.host.finding import Finding, missing, ok, unseen
from harness.host.kvmprobes import (
    HARDWARE,
    KERNEL,
    free_keys,
    maker,
    not_bare_metal,
    probe_kvm_types,
)
from harness.host.view import HostView, reason, text

_NEEDS = "SEV-SNP needs an AMD EPYC 7003 or later"
_LEAF = 0x8000001F
"""AMD64 Architecture Programmer's Manual, volume 3, E.4.17: encrypted memory capabilities."""
_SNP_BIT = 1 << 4
_MIN_FIRMWARE = (1, 51)
_DEVICE = "device"
_BIOS = (
    "in the BIOS set SMEE (SME enable), SEV-SNP support and SNP memory (RMP table) coverage to "
    "enabled, and the SEV-ES ASID space limit above 1"
)
_HARMFUL = {"iommu=pt", "iommu.passthrough=1", "amd_iommu=off", "iommu=off", "mem_encrypt=on"}
"""Words of the kernel's command line that switch SNP off."""
_LOG = "the host's log says why: dmesg | grep -iE 'sev|snp|rmp|ccp'"


@dataclass(frozen=True)
class SnpHost:
    """What a command line needs to know of an SNP host."""

    cbitpos: int
    """Position of the C bit in a page table entry: 47 or 51, by CPUID."""
    smt: bool
    """Whether the host runs two threads a core: then the guest policy must allow it."""
    asids: int
    """ASIDs for SNP guests in all, by CPUID; 0 where unknown."""
    asids_used: int
    """-1 where unknown."""


def probe_snp(view: HostView) -> tuple[list[Finding], SnpHost | None]:
    """Every SNP probe; the facts where KVM offers SNP."""
    cpu = read_cpu(view)
    processor = maker(cpu, "AuthenticAMD", "AMD processor", _NEEDS)
    if processor.status is Status.MISS:
        return [processor], None
    types = probe_kvm_types(view, cpu)
    offered = VmType.SNP in types
    leaf = _leaf(view)
    findings = [processor, *types.findings, *_why(view, cpu, leaf, offered)]
    findings += [*types.offer(VmType.SNP, _LOG), _sev_device(view)]
    if not offered:
        return findings, None
    asids, used = _asids(view, leaf)
    findings += [_firmware(view), free_keys("ASIDs", asids, used, "SEV-ES and SNP")]
    if leaf is None or not leaf.ebx & 0x3F:
        hint = "CPUID must be executable and must not be masked by a hypervisor"
        findings.append(missing("C bit position", HARDWARE, "CPUID 0x8000001f unreadable", hint))
        return findings, None
    smt = text(view, "/sys/devices/system/cpu/smt/active") == "1"
    return findings, SnpHost(leaf.ebx & 0x3F, smt, asids, used)


def _leaf(view: HostView) -> Registers | None:
    try:
        return view.cpuid(_LEAF)
    except OSError:
        return None


def _why(view: HostView, cpu: Cpu, leaf: Registers | None, offered: bool) -> list[Finding]:
    """The chain from the processor to the module parameter. Where KVM offers SNP nothing in it
    can be missing: then an odd answer is only shown."""
    blocked = unseen if offered else missing
    if cpu.virtual and not offered:
        return [not_bare_metal("SNP")]
    found = []
    if leaf is None:
        found.append(unseen("processor has SNP", HARDWARE, "CPUID cannot be executed here"))
    elif leaf.eax & _SNP_BIT:
        evidence = f"CPUID 0x8000001f EAX {leaf.eax:#x}, C bit {leaf.ebx & 0x3F}"
        found.append(ok("processor has SNP", HARDWARE, evidence))
    else:
        evidence = f"CPUID 0x8000001f EAX {leaf.eax:#x}: bit 4 is clear"
        hint = "SEV-SNP needs an EPYC 7003 or later; if this is one, " + _BIOS
        return [blocked("processor has SNP", HARDWARE, evidence, hint)]
    if kernel_is_older(view, 6, 11):
        evidence = f"{kernel_release(view)}: SNP hosts need 6.11 or later"
        return [*found, blocked("host kernel", KERNEL, evidence, "boot a newer kernel")]
    found.append(ok("host kernel", KERNEL, kernel_release(view)))
    if leaf is not None and leaf.edx == 1:
        evidence = "CPUID 0x8000001f EDX 1: all ASIDs are set aside for plain SEV"
        hint = "in the BIOS raise the SEV-ES ASID space limit above 1"
        return [*found, blocked("ASIDs for SNP", HARDWARE, evidence, hint)]
    words = (text(view, "/proc/cmdline") or "").split()
    given = " ".join(word for word in words if word in _HARMFUL)
    booted = f"; the kernel was booted with {given}" if given else ""
    without = f"; boot without {given}" if given else ""
    if "sev_snp" not in cpu.flags:
        evidence = "/proc/cpuinfo lacks the flag sev_snp: the kernel found no RMP table" + booted
        return [*found, blocked("SNP set up by BIOS", HARDWARE, evidence, _BIOS + without)]
    found.append(ok("SNP set up by BIOS", HARDWARE, "/proc/cpuinfo has the flag sev_snp"))
    return [*found, _module(view, offered, booted, without)]


def _module(view: HostView, offered: bool, booted: str, without: str) -> Finding:
    value = parameter(view, "kvm_amd", "sev_snp")
    name, evidence = "kvm_amd.sev_snp", f"/sys/module/kvm_amd/parameters/sev_snp = {value}"
    if is_on(value):
        return ok(name, KERNEL, evidence)
    if offered:  # it has just answered for SNP
        return unseen(name, KERNEL, f"the parameter shows {value}")
    if value is not None:
        evidence += booted
        hint = (
            "modprobe kvm_amd sev=1 sev_es=1 sev_snp=1 and no options in /etc/modprobe.d that "
            f"say otherwise{without}; {_LOG}"
        )
    elif parameter(view, "kvm_amd", "nested") is None:
        evidence = "the module kvm_amd is not loaded"
        hint = "modprobe kvm_amd; if that fails, switch on SVM in the BIOS"
    else:
        evidence = "kvm_amd has no parameter sev_snp"
        hint = "the host kernel needs 6.11 and CONFIG_KVM_AMD_SEV=y"
    return missing(name, KERNEL, evidence, hint)


def _sev_device(view: HostView) -> Finding:
    try:
        view.open_read_write(devices.SEV)
    except OSError as error:
        evidence = f"{devices.SEV}: {reason(error)}"
        hint = "load the module ccp (CONFIG_CRYPTO_DEV_SP_PSP=y)"
        if isinstance(error, PermissionError):
            hint = "let this user open it: chgrp kvm /dev/sev && chmod g+rw /dev/sev, or by udev"
        return missing("secure processor device", _DEVICE, evidence, hint)
    return ok("secure processor device", _DEVICE, f"{devices.SEV} opens for reading and writing")


def _firmware(view: HostView) -> Finding:
    name = "SNP firmware"
    try:
        status = view.snp_status()
    except OSError as error:
        return unseen(name, _DEVICE, f"its version is not visible: {reason(error)}")
    if (status.api_major, status.api_minor) < _MIN_FIRMWARE:
        wanted = ".".join(map(str, _MIN_FIRMWARE))
        hint = f"update the SEV firmware (amd/*.sbin in linux-firmware, or the BIOS) to {wanted}"
        return missing(name, _DEVICE, f"{status.version}: too old", hint)
    return ok(name, _DEVICE, f"{status.version}, {status.guests} guests now")


def _asids(view: HostView, leaf: Registers | None) -> tuple[int, int]:
    """(ASIDs for SNP, in use). SNP and SEV-ES share ASIDs 1 to CPUID EDX - 1."""
    row = misc_cgroup(view, "sev_es")
    if row:
        return row
    total = max(leaf.edx - 1, 0) if leaf else 0
    try:
        return total, view.snp_status().guests
    except OSError:
        return total, -1
