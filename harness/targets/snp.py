# SPDX-License-Identifier: MIT
"""SEV-SNP guests (QEMU docs/system/i386/amd-memory-encryption.rst)."""

from harness.base.confidential import SNP_POLICY_SMT, KernelHashes
from harness.base.spec import Accel, GuestSpec, TargetName
from harness.base.status import HostError, UsageError
from harness.guest.machine import Machine
from harness.targets import confidential as common
from harness.targets import tcg
from harness.targets.base import BootFiles, GuestEvidence, HostFacts, Proof
from harness.targets.shape import memory_option, sockets

CPU_MODEL = "EPYC-v4"
"""Offered by every SNP host, and accepted by the secure processor's check of CPUID values."""
TCG_CPU_MODEL = "max,la57=off"
VIRTIO = "disable-legacy=on,iommu_platform=on"
"""Virtio 1 with the DMA API: the device cannot read the guest's private memory."""
_SEV_TYPE = "sev-snp"


class SnpTarget(common.ConfidentialTarget):
    """Needs an EPYC 7003 or later with SNP switched on, Linux 6.11, QEMU 9.1; or TCG."""

    name = TargetName.SNP
    title = "SEV-SNP"
    emulated_part = "emulated RMP and host"
    modelled_cost = "snp"
    # without PAT, early_memremap_encrypted_wp() fails and __sme_early_enc_dec() BUGs (6.12, 7.3)
    symbols = ("UNACCEPTED_MEMORY", "AMD_MEM_ENCRYPT", "X86_PAT")
    accept_function = "snp_accept_memory"
    qmp_questions = ("query-sev", "query-cgs-tcg")

    def machine(self, spec: GuestSpec, files: BootFiles, host: HostFacts) -> Machine:
        """QEMU's arguments. Raises HostError or UsageError where they cannot work here."""
        if host.accel is Accel.TCG:
            return tcg.machine(
                spec,
                files,
                host,
                cpu=TCG_CPU_MODEL,
                options=(),
                properties={"qom-type": "snp-tcg-guest"},
                virtio=VIRTIO,
            )
        args: common.Args = [
            ("-accel", "kvm"),
            ("-cpu", spec.confidential.cpu_model or CPU_MODEL),
            common.machine_option(spec, "vmport=off"),
            ("-smp", f"{spec.vcpus},sockets={sockets(spec)}"),
            ("-m", memory_option(spec)),
            *common.backends(
                spec,
                "memory-backend-memfd,id=ram{node},size={size}M,"
                "share=true,prealloc=false,reserve=false",
            ),
            ("-object", self._guest_object(spec, host)),
            common.firmware_option(files),
            *common.boot_options(spec, files, VIRTIO),
        ]
        return Machine(host.qemu.binary, tuple(args), VIRTIO, common.time_scale(spec))

    def _guest_object(self, spec: GuestSpec, host: HostFacts) -> str:
        if host.snp is None:
            raise HostError("nothing is known of this host's SEV-SNP", hint="cvm-harness doctor")
        asked = spec.confidential
        if host.snp.smt and not asked.policy & SNP_POLICY_SMT:
            raise UsageError(
                f"SNP policy {asked.policy:#x} forbids SMT, which this host has switched on",
                hint="set bit 16 (0x10000), or switch the host's SMT off",
            )
        options = [
            "sev-snp-guest",
            "id=cgs0",
            f"cbitpos={host.snp.cbitpos}",
            "reduced-phys-bits=1",
            f"policy={asked.policy:#x}",
        ]
        if _hashes(spec, host):
            options.append("kernel-hashes=on")
        return ",".join(options)

    def proofs(self, evidence: GuestEvidence) -> tuple[Proof, ...]:
        """The guest's kernel, the guest's device, and QEMU, each for itself."""
        return (
            common.console_proof(
                "SEV-SNP announced on the console",
                evidence,
                (r"Memory Encryption Features active: .*SEV-SNP", r"SNP running at VMPL"),
            ),
            _by_qemu(evidence),
            common.table_proof(evidence),
        )


def _hashes(spec: GuestSpec, host: HostFacts) -> bool:
    """Firmware with room for hashes may start no kernel without; QEMU refuses them elsewhere."""
    asked = spec.confidential
    if asked.disk is not None or asked.kernel_hashes is KernelHashes.OFF:
        return False
    if asked.kernel_hashes is KernelHashes.ON and not host.kernel_hashes:
        raise UsageError(
            "--kernel-hashes=on: this firmware has no room for them",
            hint="use an AmdSev build of OVMF (OVMF.amdsev.fd), or leave the option out",
        )
    return host.kernel_hashes


def _by_qemu(evidence: GuestEvidence) -> Proof:
    """QEMU's word for it: of KVM's SEV, or of the platform that it emulates itself."""
    emulated = evidence.qmp.get("query-cgs-tcg")
    if isinstance(emulated, dict):
        platform = emulated.get("platform")
        name = "SEV-SNP by QEMU's query-cgs-tcg"
        return Proof(name, platform == TargetName.SNP.value, f"platform {platform}")
    name = "SEV-SNP by QEMU's query-sev"
    answer = evidence.qmp.get("query-sev")
    if not isinstance(answer, dict):
        return Proof(name, False, f"query-sev: {answer}")
    shown = ", ".join(
        f"{key} {answer[key]}" for key in ("sev-type", "state", "snp-policy") if key in answer
    )
    holds = answer.get("enabled") is True and answer.get("sev-type") == _SEV_TYPE
    return Proof(name, holds, shown or f"query-sev: {answer}")
