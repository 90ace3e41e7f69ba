# SPDX-License-Identifier: MIT
"""Can this host run TDX guests? From KVM's own answer down to the BIOS option to change.

The order is that of tdx_init() in arch/x86/virt/vmx/tdx/tdx.c and tdx_hardware_setup() in
arch/x86/kvm/vmx/tdx.c (7.3). KVM's answer decides; the rest explains a "no".
"""

from __future__ import annotations

from dataclasses import dataclass

from harness.base.status import Status
from harness.host.cpu import (
    Cpu,
    is_on,
    kernel_is_older,
    kernel_release,
    misc_cgroup,
    parameter,
    read_cpu,
)
from harness.host.devices import VmType
from harness.host.finding import Finding, missing, ok, unseen
from harness.host.kvmprobes import (
    HARDWARE,
    KERNEL,
    free_keys,
    maker,
    not_bare_metal,
    probe_kvm_types,
)
from harness.host.view import HostView, text

_NEEDS = "TDX needs a 4th generation Xeon (Sapphire Rapids) or later"
_FIRST_MODEL = 0x8F
"""Sapphire Rapids, family 6: the first generation with TDX (asm/intel-family.h)."""
_BIOS = (
    "in the BIOS switch on TME, TME-MT, TDX and the SEAM loader, give TDX its key ids "
    "(TME-MT/TDX key split above 0)"
)
_LOG = "the host's log says why: dmesg | grep -iE 'tdx|kvm_intel'"
# kvm_intel and kvm parameters without which KVM switches TDX off again.
_PARAMETERS = (("kvm_intel", "ept"), ("kvm", "tdp_mmu"), ("kvm", "mmio_caching"))


@dataclass(frozen=True)
class TdxHost:
    """What there is to know of a TDX host."""

    keyids: int
    """Key ids for guests in all; 0 where unknown."""
    keyids_used: int
    """-1 where unknown."""


def probe_tdx(view: HostView) -> tuple[list[Finding], TdxHost | None]:
    """Every TDX probe; the facts where KVM offers TDX."""
    cpu = read_cpu(view)
    processor = maker(cpu, "GenuineIntel", "Intel processor", _NEEDS)
    if processor.status is Status.MISS:
        return [processor], None
    types = probe_kvm_types(view, cpu)
    offered = VmType.TDX in types
    findings = [processor, *types.findings, *_why(view, cpu, offered)]
    findings += types.offer(VmType.TDX, _LOG)
    if not offered:
        return findings, None
    if version := text(view, "/sys/devices/faux/tdx_host/version"):
        findings.append(ok("TDX module", HARDWARE, f"version {version}"))
    else:
        findings.append(unseen("TDX module", HARDWARE, "this kernel does not tell its version"))
    keyids, used = misc_cgroup(view, "tdx") or (0, -1)
    findings.append(free_keys("key ids", keyids, used, "TDX"))
    return findings, TdxHost(keyids, used)


def _why(view: HostView, cpu: Cpu, offered: bool) -> list[Finding]:
    blocked = unseen if offered else missing
    if cpu.virtual and not offered:
        return [not_bare_metal("TDX")]
    if cpu.family == 6 and 0 <= cpu.model < _FIRST_MODEL and not offered:
        return [missing("processor has TDX", HARDWARE, cpu.name, _NEEDS)]
    if kernel_is_older(view, 6, 16):
        evidence = f"{kernel_release(view)}: TDX hosts need 6.16 or later"
        return [blocked("host kernel", KERNEL, evidence, "boot a newer kernel")]
    found = [ok("host kernel", KERNEL, kernel_release(view))]
    if "tdx_host_platform" not in cpu.flags:
        evidence = "/proc/cpuinfo lacks the flag tdx_host_platform"
        hint = _BIOS + "; the kernel needs CONFIG_INTEL_TDX_HOST=y and the parameter nohibernate"
        return [*found, blocked("TDX set up by BIOS", HARDWARE, evidence, hint)]
    found.append(ok("TDX set up by BIOS", HARDWARE, "/proc/cpuinfo: tdx_host_platform"))
    return [*found, _module(view, offered)]


def _module(view: HostView, offered: bool) -> Finding:
    value = parameter(view, "kvm_intel", "tdx")
    name, evidence = "kvm_intel.tdx", f"/sys/module/kvm_intel/parameters/tdx = {value}"
    if is_on(value):
        return ok(name, KERNEL, evidence)
    if offered:  # it has just answered for TDX
        return unseen(name, KERNEL, f"the parameter shows {value}")
    if value is not None:
        off = [f"{m}.{p}" for m, p in _PARAMETERS if not is_on(parameter(view, m, p) or "Y")]
        also = f", and switch on {', '.join(off)}" if off else ""
        hint = (
            f"it is off unless asked for: put 'options kvm_intel tdx=1' into /etc/modprobe.d and "
            f"reload the module{also}; if it stays off, {_LOG}"
        )
    elif parameter(view, "kvm_intel", "nested") is None:
        evidence = "the module kvm_intel is not loaded"
        hint = "modprobe kvm_intel tdx=1; if that fails, switch on VMX in the BIOS"
    else:
        evidence = "kvm_intel has no parameter tdx"
        hint = "the host kernel needs CONFIG_KVM_INTEL_TDX=y"
    return missing(name, KERNEL, evidence, hint)
