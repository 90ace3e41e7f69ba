# SPDX-License-Identifier: MIT
"""Recorded hosts (tests/unit/hosts) get the right answer, the right hint, and soon."""

import json
import time
from pathlib import Path

import pytest

from harness.base.spec import TargetName
from harness.base.status import HostError, Status, UsageError
from harness.host.finding import Finding
from harness.host.view import HostView, RecordedHost
from harness.targets.doctor import diagnose
from harness.targets.ready import Readiness, best_target, examine_target, require

HOSTS = Path(__file__).parent / "hosts"
SNP, TDX = TargetName.SNP, TargetName.TDX


def host(name: str) -> RecordedHost:
    return RecordedHost.load(HOSTS / f"{name}.json")


def changed(name: str, **answers: object) -> RecordedHost:
    """A recorded host with other answers; a space in a question is written "__"."""
    data = json.loads((HOSTS / f"{name}.json").read_text())
    return RecordedHost({**data, **{k.replace("__", " "): v for k, v in answers.items()}})


def finding(readiness: Readiness, name: str) -> Finding:
    return next(f for f in readiness.findings if f.name == name)


@pytest.mark.parametrize(
    ("name", "cbitpos", "asids", "guests"),
    [("milan-snp", 47, 99, 15), ("genoa-snp", 51, 99, 43), ("turin-snp", 51, 502, 93)],
)
def test_snp_hosts_run_snp(name: str, cbitpos: int, asids: int, guests: int) -> None:
    found = examine_target(SNP, host(name))
    assert found.blocker is None
    assert found.snp is not None
    assert (found.snp.cbitpos, found.snp.asids, found.snp.asids_used) == (cbitpos, asids, 2)
    assert found.capacity is not None
    assert found.capacity.guests == guests
    assert found.capacity.limits["ASIDs"] == asids - 2
    assert found.firmware is not None
    assert found.firmware.path == Path("/usr/share/ovmf/OVMF.amdsev.fd")
    assert finding(found, "SNP firmware").evidence == "1.55 build 21, 2 guests now"
    assert require(found) is found


def test_a_tdx_host_runs_tdx_with_firmware_that_starts_an_unsigned_kernel() -> None:
    found = examine_target(TDX, host("sapphire-rapids-tdx"))
    assert found.blocker is None
    assert found.tdx is not None
    assert (found.tdx.keyids, found.tdx.keyids_used) == (63, 1)
    assert found.capacity is not None
    assert found.capacity.limits == {"memory": 30, "cores": 56, "key ids": 62}
    assert found.firmware is not None
    assert found.firmware.path == Path("/usr/share/ovmf/OVMF.fd")
    passed_over = [f.evidence for f in found.findings if f.name == "firmware passed over"]
    assert any("inteltdx" in e and "Secure Boot keys are enrolled" in e for e in passed_over)
    signed = examine_target(TDX, host("sapphire-rapids-tdx"), disk=True)
    assert signed.firmware is not None
    assert signed.firmware.path == Path("/usr/share/ovmf/OVMF.inteltdx.ms.fd")


@pytest.mark.parametrize(
    ("name", "target", "blocker", "evidence", "hint"),
    [
        ("genoa-snp-off-in-bios", SNP, "SNP set up by BIOS", "lacks the flag sev_snp", "RMP table"),
        (
            "genoa-kvm-amd-without-sev-snp",
            SNP,
            "kvm_amd.sev_snp",
            "/sys/module/kvm_amd/parameters/sev_snp = N",
            "modprobe kvm_amd sev=1 sev_es=1 sev_snp=1",
        ),
        ("genoa-not-root", SNP, "secure processor device", "/dev/sev: EACCES", "chgrp kvm"),
        ("container-without-kvm", SNP, "KVM device", "/dev/kvm: ENOENT", "--device /dev/kvm"),
        (
            "nested-kvm-that-cannot-run-guests",
            SNP,
            "bare metal",
            "this machine is a guest itself",
            "SNP does not nest",
        ),
        ("tdx-no-keyids-left", TDX, "key ids", "63, 63 in use", "end other TDX guests"),
        ("tdx-host-kernel-too-old", TDX, "host kernel", "6.12.107", "newer kernel"),
        ("tdx-not-asked-of-kvm-intel", TDX, "kvm_intel.tdx", "tdx = N", "options kvm_intel tdx=1"),
        ("sapphire-rapids-tdx", SNP, "AMD processor", "GenuineIntel", "EPYC 7003"),
        ("milan-snp", TDX, "Intel processor", "AuthenticAMD", "Sapphire Rapids"),
    ],
)
def test_what_stands_in_the_way_is_named_with_the_way_to_mend_it(
    name: str, target: TargetName, blocker: str, evidence: str, hint: str
) -> None:
    found = examine_target(target, host(name))
    assert found.blocker is not None
    assert found.blocker.name == blocker
    assert evidence in found.blocker.evidence
    assert hint in found.blocker.hint
    with pytest.raises(HostError, match="cannot run") as error:
        require(found)
    assert error.value.status is Status.MISS
    assert evidence in error.value.cause
    assert error.value.hint == found.blocker.hint


def test_without_root_the_essential_answer_is_there_and_the_rest_is_said_to_be_unseen() -> None:
    found = examine_target(SNP, host("genoa-not-root"))
    assert finding(found, "KVM offers SNP").status is Status.PASS
    firmware = finding(found, "SNP firmware")
    assert firmware.status is Status.SKIP
    assert "not visible" in firmware.evidence


def test_no_way_to_see_asids_is_not_no_asids() -> None:
    blind = {"read__/sys/fs/cgroup/misc.capacity": {"error": "ENOENT"}}
    found = examine_target(
        SNP, changed("genoa-snp", **blind, **{"snp-status": {"error": "EACCES"}})
    )
    assert found.blocker is None
    assert found.snp is not None
    assert (found.snp.asids, found.snp.asids_used) == (99, -1)  # by CPUID


@pytest.mark.parametrize(
    ("answers", "blocker", "words"),
    [
        ({"tool__qemu__-object__help": "  memory-backend-ram\n"}, "QEMU has sev-snp-guest", "9.1"),
        ({"tool__qemu__--version": {"error": "ENOENT"}}, "QEMU has sev-snp-guest", "9.1"),
        (
            {"snp-status": {"api_major": 1, "api_minor": 49, "build": 3, "guests": 0}},
            "SNP firmware",
            "1.51",
        ),
        (
            {"cpuid__0x8000001f__0": ["0x0", "0x0", "0x0", "0x0"], "kvm__235": 1},
            "processor has SNP",
            "EPYC 7003",
        ),
        (
            {"cpuid__0x8000001f__0": ["0x101fd3f", "0x4173", "0x3ee", "0x1"], "kvm__235": 5},
            "ASIDs for SNP",
            "ASID space limit",
        ),
        ({"read__/sys/fs/cgroup/misc.current": "sev_es 99\n"}, "ASIDs", "end other"),
        ({"kvm__235": {"error": "EINVAL"}}, "KVM VM types", "6.11"),
        ({"open__/dev/kvm": {"error": "EACCES"}}, "KVM device", "usermod -aG kvm"),
    ],
)
def test_each_probe_fails_on_its_own(answers: dict[str, object], blocker: str, words: str) -> None:
    found = examine_target(SNP, changed("genoa-snp", **answers))
    assert found.blocker is not None
    assert found.blocker.name == blocker
    assert words in found.blocker.hint


def test_an_iommu_option_that_switches_snp_off_is_named() -> None:
    line = {"read__/proc/cmdline": "root=/dev/sda1 iommu=pt quiet"}
    found = examine_target(SNP, changed("genoa-kvm-amd-without-sev-snp", **line))
    assert found.blocker is not None
    assert "booted with iommu=pt" in found.blocker.evidence
    assert "boot without iommu=pt" in found.blocker.hint


@pytest.mark.parametrize(
    ("name", "target", "why"),
    [
        ("genoa-snp", SNP, "this host runs SEV-SNP guests"),
        ("sapphire-rapids-tdx", TDX, "this host runs TDX guests"),
        ("nested-kvm-that-cannot-run-guests", TargetName.EMULATED, "no SEV-SNP: bare metal"),
        ("genoa-snp-off-in-bios", TargetName.EMULATED, "no SEV-SNP: SNP set up by BIOS"),
    ],
)
def test_auto_takes_the_best_and_says_why(name: str, target: TargetName, why: str) -> None:
    chosen, reason = best_target(lambda: host(name))
    assert chosen is target
    assert why in reason


@pytest.mark.parametrize("path", sorted(HOSTS.glob("*.json")), ids=lambda path: path.stem)
def test_every_recorded_host_is_diagnosed_within_two_seconds(path: Path, tmp_path: Path) -> None:
    start = time.process_time()
    diagnosis = diagnose(RecordedHost.load(path), tmp_path)
    assert time.process_time() - start < 2
    lines = diagnosis.summary.splitlines()
    assert len(lines) == 3
    for line in lines:
        assert "cannot run" in line or "up to" in line
    assert all(f.hint for s in diagnosis.sections for f in s.findings if f.status is Status.MISS)


def test_a_nested_machine_falls_back_to_tcg_and_says_so(tmp_path: Path) -> None:
    view = host("nested-kvm-that-cannot-run-guests")
    emulated = diagnose(view, tmp_path, TargetName.EMULATED).sections[0]
    assert "under TCG" in emulated.summary
    kvm = next(f for f in emulated.findings if f.name == "KVM")
    assert kvm.status is Status.SKIP
    assert "failed to set MSR" in kvm.evidence


def test_a_recording_replays_to_the_same_answer() -> None:
    recorder = host("milan-snp")
    first = examine_target(SNP, recorder)
    again = examine_target(SNP, RecordedHost(json.loads(json.dumps(recorder.answers))))
    assert again == first


def test_a_file_that_is_no_recording_is_a_usage_error(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("[1, 2]")
    with pytest.raises(UsageError, match="not a recorded host"):
        RecordedHost.load(tmp_path / "x.json")


def test_a_host_that_answers_nothing_is_no_host() -> None:
    nothing: HostView = RecordedHost({})
    for target in (SNP, TDX):
        assert examine_target(target, nothing).blocker is not None
