# SPDX-License-Identifier: MIT
"""Probes of KVM that every target shares."""

from __future__ import annotations

from dataclasses import dataclass

from harness.host import kvm
from harness.host.cpu import Cpu, in_container
from harness.host.finding import Finding, missing, ok
from harness.host.view import HostView, reason, text

CATEGORY = "KVM"


@dataclass(frozen=True)
class KvmTypes:
    """Which VM types KVM offers, and how that was found."""

    mask: int
    """KVM_CAP_VM_TYPES; 0 where KVM could not be asked."""
    findings: tuple[Finding, ...]


def probe_kvm_types(view: HostView, cpu: Cpu) -> KvmTypes:
    """Open /dev/kvm and ask it for its VM types: the definitive answer, without root."""
    try:
        view.open_read_write(kvm.DEVICE)
    except OSError as error:
        evidence = f"{kvm.DEVICE}: {reason(error)}"
        return KvmTypes(0, (missing("KVM device", CATEGORY, evidence, _hint(view, cpu, error)),))
    device = ok("KVM device", CATEGORY, f"{kvm.DEVICE} opens for reading and writing")
    try:
        mask = view.kvm_capability(kvm.CAP_VM_TYPES)
    except OSError as error:
        evidence = f"KVM_CAP_VM_TYPES: {reason(error)}"
        hint = "the host's kernel is too old to tell: 6.11 or later for SNP, 6.16 for TDX"
        return KvmTypes(0, (device, missing("KVM VM types", CATEGORY, evidence, hint)))
    return KvmTypes(mask, (device,))


def describe_types(mask: int) -> str:
    """As in "KVM_CAP_VM_TYPES 0x11: DEFAULT, SNP"."""
    names = ", ".join(kind.name for kind in kvm.vm_types(mask)) or "none"
    return f"KVM_CAP_VM_TYPES {mask:#x}: {names}"


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
