# SPDX-License-Identifier: MIT
"""Can this host run SEV-SNP or TDX guests? From KVM's own answer, which decides, down to the BIOS
option to change. The order of the rest, which explains a "no", is that of the kernel (7.3)."""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass

from harness.base.status import Status
from harness.host import devices
from harness.host.cpu import (
    Cpu,
    in_container,
    is_on,
    kernel_is_older,
    kernel_release,
    misc_cgroup,
    parameter,
    read_cpu,
)
from harness.host.devices import Registers, VmType
from harness.host.finding import Finding, missing, ok, unseen
from harness.host.view import HostView, reason, text

HARDWARE, KERNEL, ROOM = "hardware", "host kernel", "room"
_CATEGORY = "KVM"
_SNP_NEEDS = "SEV-SNP needs an AMD EPYC 7003 or later"
_LEAF = 0x8000001F
"""AMD64 Architecture Programmer's Manual, volume 3, E.4.17: encrypted memory capabilities."""
_SNP_BIT = 1 << 4
_MIN_FIRMWARE = (1, 51)
_DEVICE = "device"
_SNP_BIOS = (
    "in the BIOS set SMEE (SME enable), SEV-SNP support and SNP memory (RMP table) coverage to "
    "enabled, and the SEV-ES ASID space limit above 1"
)
_HARMFUL = {"iommu=pt", "iommu.passthrough=1", "amd_iommu=off", "iommu=off", "mem_encrypt=on"}
"""Words of the kernel's command line that switch SNP off."""
_SNP_LOG = "the host's log says why: dmesg | grep -iE 'sev|snp|rmp|ccp'"


@dataclass(frozen=True)
class KvmTypes:
    """Which VM types KVM offers, and how that was found."""

    mask: int
    """KVM_CAP_VM_TYPES; 0 where KVM could not be asked, or is too old to say."""
    findings: tuple[Finding, ...]

    def __contains__(self, kind: VmType) -> bool:
        return bool(self.mask >> kind & 1)

    def offer(self, kind: VmType, log: str) -> list[Finding]:
        """Whether KVM offers `kind`, unless it could not be asked; `log` is where to read on."""
        names = ", ".join(each.name for each in VmType if each in self) or "none"
        name, evidence = f"KVM offers {kind.name}", f"KVM_CAP_VM_TYPES {self.mask:#x}: {names}"
        if kind in self:
            return [ok(name, _CATEGORY, evidence)]
        return [missing(name, _CATEGORY, evidence, f"see above; {log}")] if self.mask else []


def probe_kvm_types(view: HostView, cpu: Cpu) -> KvmTypes:
    """Open /dev/kvm and ask it for its VM types: the definitive answer, without root."""
    device = _opens(view, devices.KVM, "KVM device", _CATEGORY, lambda e: _hint(view, cpu, e))
    if device.status is Status.MISS:
        return KvmTypes(0, (device,))
    try:
        mask = view.kvm_capability(devices.CAP_VM_TYPES)
    except OSError as error:
        evidence = f"KVM_CAP_VM_TYPES: {reason(error)}"
        hint = "the host's kernel is too old to tell: 6.11 or later for SNP, 6.16 for TDX"
        return KvmTypes(0, (device, missing("KVM VM types", _CATEGORY, evidence, hint)))
    return KvmTypes(mask, (device,))


def _opens(
    view: HostView, path: str, name: str, category: str, hint: Callable[[OSError], str]
) -> Finding:
    """Whether this user can use a device; `hint` says what to do about an error."""
    try:
        view.open_read_write(path)
    except OSError as error:
        return missing(name, category, f"{path}: {reason(error)}", hint(error))
    return ok(name, category, f"{path} opens for reading and writing")


def _hint(view: HostView, cpu: Cpu, error: OSError) -> str:
    if isinstance(error, PermissionError):
        return "let this user use KVM: usermod -aG kvm USER, then log in again"
    if in_container(view):
        return "start the container with the device, e.g. docker run --device /dev/kvm"
    if cpu.virtual:
        return "this machine is a guest without nested KVM: use a bare-metal host"
    module = "kvm_intel" if cpu.vendor == "GenuineIntel" else "kvm_amd"
    if text(view, f"/sys/module/{module}/parameters/nested") is None:
        return f"switch on virtualisation in the BIOS, then modprobe {module}"
    return f"{module} is loaded but the device node is missing: is udev running?"


def maker(cpu: Cpu, vendor: str, name: str, needs: str) -> Finding:
    """Whether the processor is of `vendor`; `needs` says which one it takes."""
    if cpu.vendor != vendor:
        return missing(name, HARDWARE, f"{cpu.vendor or '?'}: {cpu.name}", needs)
    return ok(name, HARDWARE, f"{cpu.name} (family {cpu.family}, model {cpu.model})")


def not_bare_metal(platform: str) -> Finding:
    evidence = "the processor reports a hypervisor: this machine is a guest itself"
    return missing("bare metal", HARDWARE, evidence, f"{platform} does not nest: use bare metal")


def free_keys(name: str, total: int, used: int, others: str) -> Finding:
    """Whether ASIDs or key ids are left; `total` 0 and `used` -1: unknown."""
    if not total:
        return unseen(name, ROOM, "how many there are is not visible to this user")
    shown = "not visible how many are in use" if used < 0 else f"{used} in use"
    if used >= total:
        return missing(name, ROOM, f"{total}, {shown}", f"end other {others} guests")
    return ok(name, ROOM, f"{total}, {shown}")


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
    cpu = read_cpu(view)
    processor = maker(cpu, "AuthenticAMD", "AMD processor", _SNP_NEEDS)
    if processor.status is Status.MISS:
        return [processor], None
    types = probe_kvm_types(view, cpu)
    offered = VmType.SNP in types
    leaf: Registers | None = None
    with contextlib.suppress(OSError):
        leaf = view.cpuid(_LEAF)
    findings = [processor, *types.findings, *_why_no_snp(view, cpu, leaf, offered)]
    findings += types.offer(VmType.SNP, _SNP_LOG)
    findings.append(_opens(view, devices.SEV, "secure processor device", _DEVICE, _sev_hint))
    if not offered:
        return findings, None
    asids, used = _asids(view, leaf)
    findings += [_snp_firmware(view), free_keys("ASIDs", asids, used, "SEV-ES and SNP")]
    if leaf is None or not leaf.ebx & 0x3F:
        hint = "CPUID must be executable and must not be masked by a hypervisor"
        findings.append(missing("C bit position", HARDWARE, "CPUID 0x8000001f unreadable", hint))
        return findings, None
    smt = text(view, "/sys/devices/system/cpu/smt/active") == "1"
    return findings, SnpHost(leaf.ebx & 0x3F, smt, asids, used)


def _why_no_snp(view: HostView, cpu: Cpu, leaf: Registers | None, offered: bool) -> list[Finding]:
    """The chain from the processor to the module parameter: arch/x86/kvm/svm/sev.c,
    sev_hardware_setup(), and arch/x86/kernel/cpu/amd.c, bsp_determine_snp(). Where KVM offers SNP
    nothing in it can be missing: then an odd answer is only shown."""
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
        hint = "SEV-SNP needs an EPYC 7003 or later; if this is one, " + _SNP_BIOS
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
        return [*found, blocked("SNP set up by BIOS", HARDWARE, evidence, _SNP_BIOS + without)]
    found.append(ok("SNP set up by BIOS", HARDWARE, "/proc/cpuinfo has the flag sev_snp"))
    off = (
        "modprobe kvm_amd sev=1 sev_es=1 sev_snp=1 and no options in /etc/modprobe.d that "
        f"say otherwise{without}; {_SNP_LOG}"
    )
    unloaded = "modprobe kvm_amd; if that fails, switch on SVM in the BIOS"
    absent = "the host kernel needs 6.11 and CONFIG_KVM_AMD_SEV=y"
    return [*found, _switch(view, "kvm_amd.sev_snp", offered, (booted, off), unloaded, absent)]


def _switch(
    view: HostView, name: str, offered: bool, off: tuple[str, str], unloaded: str, absent: str
) -> Finding:
    """Whether a module's parameter ("kvm_intel.tdx") is on. `off`: what to say beside its value
    where it is not, and the hint; the other hints: no such module, no such parameter."""
    module, _, parameter_name = name.partition(".")
    value = parameter(view, module, parameter_name)
    evidence = f"/sys/module/{module}/parameters/{parameter_name} = {value}"
    if is_on(value):
        return ok(name, KERNEL, evidence)
    if offered:  # it has just answered for it
        return unseen(name, KERNEL, f"the parameter shows {value}")
    if value is not None:
        return missing(name, KERNEL, evidence + off[0], off[1])
    if parameter(view, module, "nested") is None:
        return missing(name, KERNEL, f"the module {module} is not loaded", unloaded)
    return missing(name, KERNEL, f"{module} has no parameter {parameter_name}", absent)


def _sev_hint(error: OSError) -> str:
    if isinstance(error, PermissionError):
        return "let this user open it: chgrp kvm /dev/sev && chmod g+rw /dev/sev, or by udev"
    return "load the module ccp (CONFIG_CRYPTO_DEV_SP_PSP=y)"


def _snp_firmware(view: HostView) -> Finding:
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


_TDX_NEEDS = "TDX needs a 4th generation Xeon (Sapphire Rapids) or later"
_FIRST_TDX_MODEL = 0x8F
"""Sapphire Rapids, family 6: the first generation with TDX (asm/intel-family.h)."""
_TDX_BIOS = (
    "in the BIOS switch on TME, TME-MT, TDX and the SEAM loader, give TDX its key ids "
    "(TME-MT/TDX key split above 0)"
)
_TDX_LOG = "the host's log says why: dmesg | grep -iE 'tdx|kvm_intel'"
# kvm_intel and kvm parameters without which KVM switches TDX off again.
_TDX_PARAMETERS = (("kvm_intel", "ept"), ("kvm", "tdp_mmu"), ("kvm", "mmio_caching"))


@dataclass(frozen=True)
class TdxHost:
    keyids: int
    """Key ids for guests in all; 0 where unknown."""
    keyids_used: int
    """-1 where unknown."""


def probe_tdx(view: HostView) -> tuple[list[Finding], TdxHost | None]:
    """Every TDX probe; the facts where KVM offers TDX."""
    cpu = read_cpu(view)
    processor = maker(cpu, "GenuineIntel", "Intel processor", _TDX_NEEDS)
    if processor.status is Status.MISS:
        return [processor], None
    types = probe_kvm_types(view, cpu)
    offered = VmType.TDX in types
    findings = [processor, *types.findings, *_why_no_tdx(view, cpu, offered)]
    findings += types.offer(VmType.TDX, _TDX_LOG)
    if not offered:
        return findings, None
    if version := text(view, "/sys/devices/faux/tdx_host/version"):
        findings.append(ok("TDX module", HARDWARE, f"version {version}"))
    else:
        findings.append(unseen("TDX module", HARDWARE, "this kernel does not tell its version"))
    keyids, used = misc_cgroup(view, "tdx") or (0, -1)
    findings.append(free_keys("key ids", keyids, used, "TDX"))
    return findings, TdxHost(keyids, used)


def _why_no_tdx(view: HostView, cpu: Cpu, offered: bool) -> list[Finding]:
    """As for SNP: arch/x86/virt/vmx/tdx/tdx.c, tdx_init(), and arch/x86/kvm/vmx/tdx.c,
    tdx_hardware_setup()."""
    blocked = unseen if offered else missing
    if cpu.virtual and not offered:
        return [not_bare_metal("TDX")]
    if cpu.family == 6 and 0 <= cpu.model < _FIRST_TDX_MODEL and not offered:
        return [missing("processor has TDX", HARDWARE, cpu.name, _TDX_NEEDS)]
    if kernel_is_older(view, 6, 16):
        evidence = f"{kernel_release(view)}: TDX hosts need 6.16 or later"
        return [blocked("host kernel", KERNEL, evidence, "boot a newer kernel")]
    found = [ok("host kernel", KERNEL, kernel_release(view))]
    if "tdx_host_platform" not in cpu.flags:
        evidence = "/proc/cpuinfo lacks the flag tdx_host_platform"
        hint = (
            _TDX_BIOS + "; the kernel needs CONFIG_INTEL_TDX_HOST=y and the parameter nohibernate"
        )
        return [*found, blocked("TDX set up by BIOS", HARDWARE, evidence, hint)]
    found.append(ok("TDX set up by BIOS", HARDWARE, "/proc/cpuinfo: tdx_host_platform"))
    needed = [f"{m}.{p}" for m, p in _TDX_PARAMETERS if not is_on(parameter(view, m, p) or "Y")]
    also = f", and switch on {', '.join(needed)}" if needed else ""
    off = (
        "it is off unless asked for: put 'options kvm_intel tdx=1' into /etc/modprobe.d and "
        f"reload the module{also}; if it stays off, {_TDX_LOG}"
    )
    unloaded = "modprobe kvm_intel tdx=1; if that fails, switch on VMX in the BIOS"
    absent = "the host kernel needs CONFIG_KVM_INTEL_TDX=y"
    return [*found, _switch(view, "kvm_intel.tdx", offered, ("", off), unloaded, absent)]
