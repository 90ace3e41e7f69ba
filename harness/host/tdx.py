# SPDX-License-Identifier: MIT
"""Can this host run TDX guests? From KVM's own answer down to the BIOS option to change.

The order is that of tdx_init() in arch/x86/virt/vmx/tdx/tdx.c and tdx_hardware_setup() in
arch/x86/kvm/vmx/tdx.c (7.3). KVM's answer decides; the rest explains a "no".
"""

from __future__ import annotations

from dataclasses import dataclass

from harness.host import kvm
from harness.host.cpu import (
    Cpu,
    is_on,
    kernel_is_older,
    kernel_release,
    misc_cgroup,
    parameter,
    read_cpu,
)
from harness.host.finding import Finding, missing, ok, unseen
from harness.host.kvmprobes import describe_types, probe_kvm_types
from harness.host.view import HostView, text

_FIRST_MODEL = 0x8F
"""Sapphire Rapids, family 6: the first generation with TDX (asm/intel-family.h)."""
_VERSION = "/sys/devices/faux/tdx_host/version"
_HARDWARE, _KERNEL, _ROOM = "hardware", "host kernel", "room"
_BIOS = (
    "in the BIOS switch on TME, TME-MT, TDX and the SEAM loader, give TDX its key ids "
    "(TME-MT/TDX key split above 0)"
)
_LOG = "the host's log says why: dmesg | grep -iE 'tdx|kvm_intel'"
# kvm_intel and kvm parameters without which KVM switches TDX off again.
_NEEDED = (("kvm_intel", "ept"), ("kvm", "tdp_mmu"), ("kvm", "mmio_caching"))


@dataclass(frozen=True)
class TdxHost:
    """What there is to know of a TDX host."""

    keyids: int
    """Key ids for guests in all; 0 where unknown."""
    keyids_used: int
    """-1 where unknown."""
    module_version: str
    """Of the TDX module; "" where the kernel does not tell (only new ones do)."""


def probe_tdx(view: HostView) -> tuple[list[Finding], TdxHost | None]:
    """Every TDX probe; the facts where KVM offers TDX."""
    cpu = read_cpu(view)
    if cpu.vendor != "GenuineIntel":
        hint = "TDX needs a 4th generation Xeon (Sapphire Rapids) or later"
        evidence = f"{cpu.vendor or '?'}: {cpu.name}"
        return [missing("Intel processor", _HARDWARE, evidence, hint)], None
    types = probe_kvm_types(view, cpu)
    offered = bool(types.mask >> kvm.VmType.TDX & 1)
    findings = [
        ok("Intel processor", _HARDWARE, f"{cpu.name} (family {cpu.family}, model {cpu.model})"),
        *types.findings,
        *_why(view, cpu, offered),
    ]
    if types.mask and not offered:
        findings.append(
            missing("KVM offers TDX", "KVM", describe_types(types.mask), f"see above; {_LOG}")
        )
    if not offered:
        return findings, None
    findings.append(ok("KVM offers TDX", "KVM", describe_types(types.mask)))
    version = text(view, _VERSION) or ""
    if version:
        findings.append(ok("TDX module", _HARDWARE, f"version {version}"))
    else:
        findings.append(unseen("TDX module", _HARDWARE, "this kernel does not tell its version"))
    keyids, used = misc_cgroup(view, "tdx") or (0, -1)
    findings.append(_keyid_finding(keyids, used))
    return findings, TdxHost(keyids, used, version)


def _why(view: HostView, cpu: Cpu, offered: bool) -> list[Finding]:
    blocked = unseen if offered else missing
    if cpu.virtual and not offered:
        evidence = "the processor reports a hypervisor: this machine is a guest itself"
        return [missing("bare metal", _HARDWARE, evidence, "TDX does not nest: use bare metal")]
    if cpu.family == 6 and 0 <= cpu.model < _FIRST_MODEL and not offered:
        hint = "TDX needs a 4th generation Xeon (Sapphire Rapids) or later"
        return [missing("processor has TDX", _HARDWARE, cpu.name, hint)]
    if kernel_is_older(view, 6, 16):
        evidence = f"{kernel_release(view)}: TDX hosts need 6.16 or later"
        return [blocked("host kernel", _KERNEL, evidence, "boot a newer kernel")]
    found = [ok("host kernel", _KERNEL, kernel_release(view))]
    if "tdx_host_platform" in cpu.flags:
        found.append(ok("TDX set up by BIOS", _HARDWARE, "/proc/cpuinfo: tdx_host_platform"))
    else:
        evidence = "/proc/cpuinfo lacks the flag tdx_host_platform"
        hint = _BIOS + "; the kernel needs CONFIG_INTEL_TDX_HOST=y and the parameter nohibernate"
        return [*found, blocked("TDX set up by BIOS", _HARDWARE, evidence, hint)]
    return [*found, *_modules(view, offered)]


def _modules(view: HostView, offered: bool) -> list[Finding]:
    value = parameter(view, "kvm_intel", "tdx")
    name = "kvm_intel.tdx"
    if is_on(value):
        return [ok(name, _KERNEL, f"/sys/module/kvm_intel/parameters/tdx = {value}")]
    if offered:  # it has just answered for TDX
        return [unseen(name, _KERNEL, f"the parameter shows {value}")]
    if value is None:
        if parameter(view, "kvm_intel", "nested") is None:
            hint = "modprobe kvm_intel tdx=1; if that fails, switch on VMX in the BIOS"
            return [missing(name, _KERNEL, "the module kvm_intel is not loaded", hint)]
        hint = "the host kernel needs CONFIG_KVM_INTEL_TDX=y"
        return [missing(name, _KERNEL, "kvm_intel has no parameter tdx", hint)]
    off = [f"{m}.{p}" for m, p in _NEEDED if not is_on(parameter(view, m, p) or "Y")]
    also = f", and switch on {', '.join(off)}" if off else ""
    evidence = f"/sys/module/kvm_intel/parameters/tdx = {value}"
    hint = (
        f"it is off unless asked for: put 'options kvm_intel tdx=1' into /etc/modprobe.d and "
        f"reload the module{also}; if it stays off, {_LOG}"
    )
    return [missing(name, _KERNEL, evidence, hint)]


def _keyid_finding(total: int, used: int) -> Finding:
    name = "key ids"
    if not total:
        return unseen(name, _ROOM, "how many there are is not visible to this user")
    shown = "not visible how many are in use" if used < 0 else f"{used} in use"
    if used >= total:
        return missing(name, _ROOM, f"{total}, {shown}", "end other TDX guests")
    return ok(name, _ROOM, f"{total}, {shown}")
