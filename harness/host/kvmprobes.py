# SPDX-License-Identifier: MIT
"""Probes of KVM and of the processor that the confidential targets share."""

from __future__ import annotations

from dataclasses import dataclass

from harness.host import devices
from harness.host.cpu import Cpu, in_container
from harness.host.devices import VmType
from harness.host.finding import Finding, missing, ok, unseen
from harness.host.view import HostView, reason, text

HARDWARE, KERNEL, ROOM = "hardware", "host kernel", "room"
_CATEGORY = "KVM"


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
    try:
        view.open_read_write(devices.KVM)
    except OSError as error:
        evidence = f"{devices.KVM}: {reason(error)}"
        return KvmTypes(0, (missing("KVM device", _CATEGORY, evidence, _hint(view, cpu, error)),))
    device = ok("KVM device", _CATEGORY, f"{devices.KVM} opens for reading and writing")
    try:
        mask = view.kvm_capability(devices.CAP_VM_TYPES)
    except OSError as error:
        evidence = f"KVM_CAP_VM_TYPES: {reason(error)}"
        hint = "the host's kernel is too old to tell: 6.11 or later for SNP, 6.16 for TDX"
        return KvmTypes(0, (device, missing("KVM VM types", _CATEGORY, evidence, hint)))
    return KvmTypes(mask, (device,))


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
    """What a machine that is a guest itself lacks."""
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
