# SPDX-License-Identifier: MIT
"""TDX guests (QEMU docs/system/i386/tdx.rst)."""

import json

from harness.base.confidential import Gpaw
from harness.base.spec import Accel, GuestSpec, TargetName
from harness.base.status import UsageError
from harness.guest.machine import Machine
from harness.targets import confidential as common
from harness.targets import tcg
from harness.targets.base import BootFiles, GuestEvidence, HostFacts, Proof
from harness.targets.shape import memory_option, sockets

CPU_MODEL = "host,pmu=off"
TCG_CPU_MODEL = "max,vendor=GenuineIntel,la57=off,svm=off,monitor=off"
"""What TCG has and a TDX module would not let a guest have is off; Linux looks for Intel's name."""
_SEPT_VE_DISABLE = 1 << 28
_DEBUG = 1 << 0
"""TD attributes (TDX module ABI, ATTRIBUTES; arch/x86/include/asm/shared/tdx.h)."""


class TdxTarget(common.ConfidentialTarget):
    """Needs a Sapphire Rapids Xeon or later with TDX switched on, Linux 6.16, QEMU 10.1; or TCG."""

    name = TargetName.TDX
    title = "TDX"
    emulated_part = "emulated module"
    symbols = ("UNACCEPTED_MEMORY", "INTEL_TDX_GUEST")
    accept_function = "tdx_accept_memory"

    def machine(self, spec: GuestSpec, files: BootFiles, host: HostFacts) -> Machine:
        """QEMU's arguments. Raises HostError or UsageError where they cannot work here."""
        if host.accel is Accel.TCG:
            return tcg.machine(
                spec,
                files,
                host,
                cpu=TCG_CPU_MODEL,
                options=("hpet=off",),
                properties=self._emulated_module(spec),
            )
        model = spec.confidential.cpu_model or CPU_MODEL
        if model.split(",")[0] != "host":
            raise UsageError(
                f"--cpu-model={model}: QEMU takes no named model for TDX guests",
                hint="leave the option out, or use host with flags: host,-avx512f",
            )
        args: common.Args = [
            ("-accel", "kvm"),
            ("-cpu", model),
            common.machine_option(spec, "kernel-irqchip=split", "hpet=off"),
            ("-smp", f"{spec.vcpus},sockets={sockets(spec)}"),
            ("-m", memory_option(spec)),
            *common.backends(spec, "memory-backend-ram,id=ram{node},size={size}M"),
            ("-object", self._guest_object(spec)),
            common.firmware_option(files),
            *common.boot_options(spec, files, ""),
        ]
        return Machine(host.qemu.binary, tuple(args), "", common.time_scale(spec))

    def _guest_object(self, spec: GuestSpec) -> str:
        properties = {"qom-type": "tdx-guest", "id": "cgs0", **_attributes(spec)}
        return json.dumps(properties, separators=(",", ":"))

    def _emulated_module(self, spec: GuestSpec) -> dict[str, object]:
        wide = spec.platform.gpaw is Gpaw.WIDE
        width: dict[str, object] = {} if wide else {"gpaw": int(spec.platform.gpaw)}
        return {"qom-type": "tdx-tcg-guest", **width, **_attributes(spec)}

    def proofs(self, evidence: GuestEvidence) -> tuple[Proof, ...]:
        """The guest's kernel by its messages, and the processor by the flag or the device."""
        return (
            common.console_proof(
                "TDX announced on the console",
                evidence,
                (r"Memory Encryption Features active: Intel TDX", r"tdx: Guest detected"),
            ),
            _processor_proof(evidence),
            common.table_proof(evidence),
        )


def _processor_proof(evidence: GuestEvidence) -> Proof:
    """That the processor, as the guest sees it, or the platform's device says so."""
    name = "TDX by the guest's processor"
    if "tdx_guest" in evidence.answers.get(common.CPU_FLAGS, "").split():
        return Proof(name, True, "/proc/cpuinfo has the flag tdx_guest")
    if "/dev/tdx_guest" in evidence.answers.get(common.DEVICES, "").split():
        return Proof(name, True, "/dev/tdx_guest exists")
    return Proof(name, False, "the guest has neither the cpuinfo flag tdx_guest nor /dev/tdx_guest")


def _attributes(spec: GuestSpec) -> dict[str, object]:
    return {"attributes": _SEPT_VE_DISABLE | _DEBUG} if spec.confidential.debug else {}
