# SPDX-License-Identifier: MIT
"""QEMU's refusals become a cause and a hint, and its own words are kept."""

import pytest

from harness.base.status import HostError
from harness.guest.monitor import Exit
from harness.guest.verdict import on_exit, on_panic
from harness.host.refusals import REFUSALS, explain
from harness.record.console import Kind, Splat

Q = "qemu-system-x86_64: "
SAID = [
    (Q + "-accel kvm: vm-type TDX not supported by KVM", "no TDX guests",
     "kvm_intel.tdx: `cvm-harness doctor --target=tdx`"),
    (Q + "-accel kvm: vm-type SEV-SNP not supported by KVM", "no SEV-SNP guests",
     "kvm_amd.sev_snp"),
    (
        Q + "cannot set up private guest memory for tdx-guest: KVM required",
        "without KVM",
        "--target=emulated",
    ),
    (Q + "-object sev-snp-guest,id=cgs0: Parameter 'qom-type' does not accept value "
     "'sev-snp-guest'", "no SEV-SNP", "9.1"),
    (Q + "-object tdx-guest: Parameter 'qom-type' does not accept value 'tdx-guest'",
     "no TDX", "10.1"),
    (Q + "KVM_TDX_INIT_VM failed: No space left on device", "key ids", "end other TDX"),
    (Q + "sev_snp_launch_start: SNP_LAUNCH_START ret=-25 fw_error=0 ''", "do not match", "6.11"),
    (Q + "sev_snp_launch_start: SNP_LAUNCH_START ret=-5 fw_error=7 'Policy is not allowed'",
     "policy", "SMT"),
    (Q + "sev_snp_launch_start: SNP_LAUNCH_START ret=-5 fw_error=16 ''", "would not start", "ccp"),
    (Q + "pflash with kvm requires KVM readonly memory support", "pflash", "-bios"),
    (Q + "Could not access KVM kernel module: Permission denied", "/dev/kvm", "usermod"),
    (Q + "Could not access KVM kernel module: No such file or directory", "no /dev/kvm",
     "--device /dev/kvm"),
    (Q + "Invalid attributes 0x10000001 for TDX VM (KVM supported: 0x10000000)", "TD attributes",
     "--guest-debug"),
    (Q + "SEV: guest firmware hashes table area is invalid (base=0x0 size=0x0)", "kernel hashes",
     "--kernel-hashes=off"),
    (Q + "Cannot find TDX_METADATA_OFFSET_GUID", "not built for TDX", "--firmware"),
    (Q + "Named cpu model is not supported for TDX yet!", "named CPU", "--cpu-model"),
    (Q + "sev_common_kvm_init: Failed to open /dev/sev 'Permission denied'", "/dev/sev", "chgrp"),
    (Q + "error: failed to set MSR 0x10a to 0x69", "nested", "--accel=tcg"),
    (Q + "cannot set up guest memory 'ram0': Cannot allocate memory", "out of memory", "smaller"),
]  # fmt: skip


@pytest.mark.parametrize(("said", "cause", "hint"), SAID)
def test_known_refusals_are_translated_and_kept(said: str, cause: str, hint: str) -> None:
    verdict = on_exit(Exit(1, ""), [said], asked=False)
    assert verdict.error is HostError
    assert cause in verdict.cause
    assert said in verdict.cause
    assert hint in verdict.hint
    assert verdict.details == (said,)


def test_an_abort_of_qemu_is_explained_by_its_words() -> None:
    verdict = on_exit(Exit(-6, ""), [Q + "error: failed to set MSR 0x10a"], asked=False)
    assert "nested machine" in verdict.cause
    assert "killed by SIGABRT" in on_exit(Exit(-6, ""), ["?"], asked=False).cause
    assert "SIGKILL" in on_exit(Exit(-9, ""), [SAID[0][0]], asked=False).cause


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("OVMF: Secure boot image verification failed.", "not signed"),
        ("BdsDxe: No bootable option or device was found.", "--kernel-hashes=on"),
    ],
)
def test_firmware_that_starts_no_kernel_is_not_the_kernels_fault(line: str, hint: str) -> None:
    verdict = on_panic(Splat(Kind.FIRMWARE, line, 0))
    assert verdict.error is HostError
    assert line in verdict.cause
    assert hint in verdict.hint


def test_unknown_words_are_passed_on_without_a_guess() -> None:
    verdict = on_exit(Exit(1, ""), [Q + "something new"], asked=False)
    assert "something new" in verdict.cause
    assert verdict.hint == ""
    assert explain([]) is None


def test_every_refusal_has_a_cause_and_a_hint() -> None:
    assert all(r.cause and r.hint for r in REFUSALS.values())
