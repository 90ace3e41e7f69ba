# SPDX-License-Identifier: MIT
"""SNP and TDX command lines follow from spec and host; proofs need independent evidence."""

import dataclasses
import json
from pathlib import Path

import pytest

from harness.base.guest_options import spec_arguments
from harness.base.spec import Accel, AcceptMode, GuestSpec
from harness.base.status import HostError, UsageError
from harness.base.units import GIB, PAGE_SIZE
from harness.guest.machine import ChannelFds, Machine
from harness.host.hardware import SnpHost
from harness.qemu.binary import Qemu
from harness.targets import confidential
from harness.targets.base import BootFiles, GuestEvidence, HostFacts, Target, lazy_in_force
from harness.targets.choose import guest_spec
from harness.targets.emulated import EmulatedTarget
from harness.targets.registry import target_for
from harness.targets.snp import SnpTarget
from harness.targets.tdx import TdxTarget

FILES = BootFiles(Path("/k/bzImage"), Path("/k/initrd"), Path("/k/OVMF.fd"))
HOST = HostFacts(Qemu(Path("/q/qemu"), "11.1.3"), Accel.KVM, "test", snp=SnpHost(51, True, 99, 0))


def on_kvm(target: str, **options: object) -> GuestSpec:
    """A guest on hardware, whatever this machine has."""
    return guest_spec(target=target, accel="kvm", **options)


def arguments(
    target: Target, spec: GuestSpec, files: BootFiles = FILES, host: HostFacts = HOST
) -> list[tuple[str, ...]]:
    return list(target.machine(spec, files, host).args)


def value(args: list[tuple[str, ...]], option: str, having: str = "") -> str:
    return next(rest[0] for name, *rest in args if name == option and having in rest[0])


def test_snp_command_line_follows_the_host() -> None:
    args = arguments(SnpTarget(), on_kvm("snp", vcpus=8))
    assert value(args, "-accel") == "kvm"
    assert value(args, "-cpu") == "EPYC-v4"
    assert value(args, "-machine") == (
        "q35,vmport=off,confidential-guest-support=cgs0,memory-backend=ram0"
    )
    assert value(args, "-object", "sev-snp") == (
        "sev-snp-guest,id=cgs0,cbitpos=51,reduced-phys-bits=1,policy=0x30000"
    )
    assert value(args, "-object", "memory") == (
        "memory-backend-memfd,id=ram0,size=16384M,share=true,prealloc=false,reserve=false"
    )
    assert value(args, "-bios") == "/k/OVMF.fd"
    assert "accept_memory=lazy" in value(args, "-append").split()
    milan = dataclasses.replace(HOST, snp=SnpHost(47, False, 99, 0))
    assert "cbitpos=47" in value(
        arguments(SnpTarget(), on_kvm("snp"), host=milan),
        "-object",
        "sev-snp",
    )


def test_every_virtio_device_of_an_snp_guest_uses_the_dma_api() -> None:
    line = SnpTarget().machine(on_kvm("snp"), FILES, HOST).command_line()
    virtio = [w for w in line.split() if w.startswith("virtio-") and "pci" in w]
    assert len(virtio) >= 3
    assert all("disable-legacy=on,iommu_platform=on" in device for device in virtio)


def test_tdx_command_line() -> None:
    args = arguments(TdxTarget(), on_kvm("tdx"))
    assert value(args, "-cpu") == "host,pmu=off"
    assert value(args, "-machine") == (
        "q35,kernel-irqchip=split,hpet=off,confidential-guest-support=cgs0,memory-backend=ram0"
    )
    assert json.loads(value(args, "-object", "tdx-guest")) == {
        "qom-type": "tdx-guest",
        "id": "cgs0",
    }
    debug = arguments(TdxTarget(), on_kvm("tdx", guest_debug=True))
    assert json.loads(value(debug, "-object", "tdx-guest"))["attributes"] == 1 << 28 | 1


def test_firmware_is_never_pflash() -> None:
    for target, name in ((SnpTarget(), "snp"), (TdxTarget(), "tdx")):
        assert "pflash" not in str(arguments(target, guest_spec(target=name)))
        with pytest.raises(HostError, match="no firmware"):
            arguments(target, guest_spec(target=name), BootFiles(Path("k"), Path("i")))


@pytest.mark.parametrize(
    ("asked", "room", "given"),
    [("auto", True, True), ("auto", False, False), ("off", True, False), ("on", True, True)],
)
def test_kernel_hashes_follow_the_firmware(asked: str, room: bool, given: bool) -> None:
    host = dataclasses.replace(HOST, kernel_hashes=room)
    args = arguments(SnpTarget(), on_kvm("snp", kernel_hashes=asked), host=host)
    assert ("kernel-hashes=on" in value(args, "-object", "sev-snp")) is given


def test_kernel_hashes_that_the_firmware_has_no_room_for_are_refused() -> None:
    with pytest.raises(UsageError, match="no room"):
        arguments(SnpTarget(), on_kvm("snp", kernel_hashes="on"))


def test_snp_policy_bits() -> None:
    debug = arguments(SnpTarget(), on_kvm("snp", guest_debug=True))
    assert "policy=0xb0000" in value(debug, "-object", "sev-snp")
    asked = on_kvm("snp", snp_policy="0x20000")
    with pytest.raises(UsageError, match="forbids SMT"):
        arguments(SnpTarget(), asked)
    without_smt = dataclasses.replace(HOST, snp=SnpHost(51, False, 99, 0))
    args = arguments(SnpTarget(), asked, host=without_smt)
    assert "policy=0x20000" in value(args, "-object", "sev-snp")


def test_named_cpu_models_are_not_for_tdx() -> None:
    with pytest.raises(UsageError, match="no named model"):
        arguments(TdxTarget(), on_kvm("tdx", cpu_model="SapphireRapids"))
    args = arguments(TdxTarget(), on_kvm("tdx", cpu_model="host,-avx512f"))
    assert value(args, "-cpu") == "host,-avx512f"
    named = arguments(SnpTarget(), on_kvm("snp", cpu_model="EPYC-Genoa"))
    assert value(named, "-cpu") == "EPYC-Genoa"


def test_huge_pages_and_nodes() -> None:
    spec = on_kvm("snp", huge_pages="2M", numa_nodes=2)
    args = arguments(SnpTarget(), spec)
    backends = [rest[0] for name, *rest in args if name == "-object" and "memory-" in rest[0]]
    assert len(backends) == 2
    assert all("size=8192M" in b and "hugetlb=on,hugetlbsize=2M" in b for b in backends)
    assert "memory-backend=ram0" not in value(args, "-machine")


def test_a_disk_is_booted_with_its_kernel_and_never_written_to(tmp_path: Path) -> None:
    disk = tmp_path / "debian,13.qcow2"
    disk.write_bytes(b"QFI\xfb" + bytes(100))
    spec = on_kvm("snp", disk=str(disk))
    host = dataclasses.replace(HOST, kernel_hashes=True)
    args = arguments(SnpTarget(), spec, dataclasses.replace(FILES, seed=tmp_path), host)
    options = [name for name, *_ in args]
    assert "-kernel" not in options
    assert "-initrd" not in options
    drive = value(args, "-drive")
    assert drive == f"if=none,id=disk0,file={tmp_path}/debian,,13.qcow2,format=qcow2,snapshot=on"
    assert "kernel-hashes" not in value(args, "-object", "sev-snp")
    seed = json.loads(value(args, "-blockdev"))
    assert seed["driver"] == "vvfat"
    assert seed["read-only"] is True
    raw = tmp_path / "raw.img"
    raw.write_bytes(bytes(512))
    assert confidential.image_format(raw) == "raw"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"memory": "2G", "accel": "kvm"}, "nothing to accept"),
        ({"memory": "4097M", "accel": "kvm"}, "not a multiple of 2 MiB"),
        ({"clock": "icount", "accel": "kvm"}, "needs TCG"),
    ],
)
@pytest.mark.parametrize("target", ["snp", "tdx"])
def test_what_hardware_cannot_do_is_a_usage_error(
    target: str, options: dict[str, str], says: str
) -> None:
    with pytest.raises(UsageError, match=says):
        guest_spec(target=target, **options)


def test_a_figure_from_hardware_is_not_said_to_rest_on_a_cost_model() -> None:
    assert TdxTarget().cost_words(on_kvm("tdx")) == "measured on tdx hardware"
    assert "cost model 'tdx'" in EmulatedTarget().cost_words(guest_spec(cost="tdx"))


def test_hardware_guests_default_to_well_above_four_gib() -> None:
    assert on_kvm("snp").memory == 16 * GIB
    assert guest_spec(target="emulated").memory == 4 * GIB


def test_the_rerun_command_names_every_option(tmp_path: Path) -> None:
    (tmp_path / "fw.fd").touch()
    spec = guest_spec(
        target="snp",
        firmware=str(tmp_path / "fw.fd"),
        snp_policy="0x30001",
        guest_debug=True,
        kernel_hashes="off",
        cpu_model="EPYC-Milan",
        huge_pages="1G",
    )
    words = spec_arguments(spec, "debian:6.12")
    for word in (
        f"--firmware={tmp_path}/fw.fd",
        "--snp-policy=0x30001",
        "--guest-debug",
        "--kernel-hashes=off",
        "--cpu-model=EPYC-Milan",
        "--huge-pages=1G",
    ):
        assert word in words


EFI = "[    0.0] efi: ACPI=0xbf9fa000 Unaccepted=0xbe6ab018 RNG=0xbf92b018\n"
SNP = GuestEvidence(
    console=EFI + "[    0.5] Memory Encryption Features active: AMD SEV SEV-ES SEV-SNP\n",
    cmdline="accept_memory=lazy",
    emulation_stats={},
    nr_unaccepted_at_init=3_000_000,
    answers={confidential.DEVICES: "/dev/sev-guest\n"},
    qmp={"query-sev": {"enabled": True, "sev-type": "sev-snp", "state": "running"}},
)
REFUSED = "QEMU refused query-sev: SEV is not available"
SNP_TCG = dataclasses.replace(
    SNP, qmp={"query-sev": REFUSED, "query-cgs-tcg": {"platform": "snp", "pages": {}}}
)
TDX = dataclasses.replace(
    SNP,
    console=EFI + "[    0.5] Memory Encryption Features active: Intel TDX\n",
    answers={confidential.CPU_FLAGS: "flags\t\t: fpu hypervisor tdx_guest\n"},
    qmp={},
)


@pytest.mark.parametrize(
    ("target", "evidence"), [(SnpTarget(), SNP), (SnpTarget(), SNP_TCG), (TdxTarget(), TDX)]
)
def test_proofs_hold_on_good_evidence(target: Target, evidence: GuestEvidence) -> None:
    proofs = target.proofs(evidence)
    assert len(proofs) == 3
    assert all(proof.holds for proof in proofs), proofs


@pytest.mark.parametrize(
    ("target", "evidence", "change", "broken"),
    [
        (SnpTarget(), SNP, {"console": EFI + "Memory Encryption Features active: AMD SME\n"}, 0),
        (SnpTarget(), SNP, {"console": EFI + "Memory Encryption Features active: AMD SEV\n"}, 0),
        (SnpTarget(), SNP, {"qmp": {"query-sev": {"enabled": True, "sev-type": "sev"}}}, 1),
        (SnpTarget(), SNP, {"qmp": {"query-sev": "QEMU refused query-sev"}}, 1),
        (SnpTarget(), SNP, {"qmp": {"query-cgs-tcg": {"platform": "tdx"}}}, 1),
        (SnpTarget(), SNP, {"qmp": {}}, 1),
        (SnpTarget(), SNP, {"console": SNP.console.replace("Unaccepted=", "x=")}, 2),
        (TdxTarget(), TDX, {"console": SNP.console}, 0),
        (TdxTarget(), TDX, {"answers": {}}, 1),
        (TdxTarget(), TDX, {"answers": {confidential.CPU_FLAGS: "flags: tdx_guest_x"}}, 1),
    ],
)
def test_each_proof_fails_on_its_own(
    target: Target, evidence: GuestEvidence, change: dict[str, object], broken: int
) -> None:
    proofs = target.proofs(dataclasses.replace(evidence, **change))  # type: ignore[arg-type]
    assert [proof.holds for proof in proofs] == [index != broken for index in range(3)]


def test_the_device_proves_tdx_where_the_flag_cannot_be_read() -> None:
    evidence = dataclasses.replace(TDX, answers={confidential.DEVICES: "/dev/tdx_guest\n"})
    assert all(proof.holds for proof in TdxTarget().proofs(evidence))


def test_too_little_unaccepted_is_no_lazy_guest_and_has_a_hint() -> None:
    spec = on_kvm("snp", memory="16G")
    least = SnpTarget().least_unaccepted_pages(spec)
    assert least * PAGE_SIZE == (16 - 2) * GIB // 4
    few = dataclasses.replace(SNP, nr_unaccepted_at_init=least - 1)
    proof = lazy_in_force(few, AcceptMode.LAZY, least, SnpTarget().more_unaccepted)
    assert not proof.holds
    assert "fewer than" in proof.evidence
    assert "--firmware" in proof.hint
    enough = dataclasses.replace(SNP, nr_unaccepted_at_init=least)
    assert lazy_in_force(enough, AcceptMode.LAZY, least).holds


UNDER_TCG = dataclasses.replace(HOST, accel=Accel.TCG, snp=None)


def under_tcg(target: str, **options: object) -> tuple[Machine, dict[str, object]]:
    """The machine of a guest whose platform QEMU emulates, and its platform's object."""
    spec = guest_spec(target=target, accel="tcg", **options)
    machine = target_for(spec.target).machine(spec, FILES, UNDER_TCG)
    objects = [rest[0] for name, *rest in machine.args if name == "-object"]
    return machine, json.loads(next(text for text in objects if text.startswith("{")))


@pytest.mark.parametrize(
    ("target", "kind", "cpu"),
    [("tdx", "tdx-tcg-guest", "vendor=GenuineIntel"), ("snp", "snp-tcg-guest", "max,la57=off")],
)
def test_under_tcg_accelerator_and_object_differ(target: str, kind: str, cpu: str) -> None:
    machine, platform = under_tcg(target, memory="6G")
    args = list(machine.args)
    assert value(args, "-accel") == "tcg,thread=multi"
    assert cpu in value(args, "-cpu")
    assert "confidential-guest-support=cgs0" in value(args, "-machine")
    assert "max-ram-below-4g" not in value(args, "-machine")
    assert platform == {"qom-type": kind, "id": "cgs0"}
    assert value(args, "-bios") == "/k/OVMF.fd"
    assert "accept_memory=lazy" in value(args, "-append").split()
    line = machine.command_line()
    virtio = [word for word in line.split() if word.startswith("virtio-") and "pci" in word]
    assert all(machine.virtio_options in device for device in virtio)


def test_the_platforms_options_reach_its_object() -> None:
    _, platform = under_tcg(
        "tdx",
        on_violation="inject",
        intercepts=True,
        accept_level="4K",
        gpaw="48",
        guest_debug=True,
        cost="1000",
        faults="accept-lie,gpa=0x100000000;busy,nth=3,count=0",
    )
    assert platform == {
        "qom-type": "tdx-tcg-guest",
        "id": "cgs0",
        "attributes": 1 << 28 | 1,
        "gpaw": 48,
        "on-violation": "inject",
        "intercepts": True,
        "max-page-level": 0,
        "accept-ns-4k": 39,
        "accept-ns-2m": 1000,
        "accept-ns-1g": 512_000,
        "faults": [
            {"kind": "accept-lie", "nth": 1, "count": 1, "gpa": 1 << 32},
            {"kind": "busy", "nth": 3, "count": 0},
        ],
    }
    assert under_tcg("snp", strict=False)[1]["on-violation"] == "report"


def test_small_guests_have_their_memory_above_four_gib() -> None:
    machine, _ = under_tcg("snp", memory="1536M")
    assert "max-ram-below-4g=512M" in value(list(machine.args), "-machine")
    assert under_tcg("snp")[0].args != machine.args
    assert value(list(under_tcg("tdx", memory="6143M")[0].args), "-m") == "6143M"


def test_only_the_running_guests_object_has_a_file_for_its_events(tmp_path: Path) -> None:
    machine, platform = under_tcg("tdx")
    words = machine.argv("id", ChannelFds(3, 4, 5), tmp_path / "a,b")
    told = json.loads(next(word for word in words if word.startswith("{")))
    assert told == {**platform, "events": str(tmp_path / "a,b")}
    assert "events" not in machine.command_line()


@pytest.mark.parametrize(
    "options",
    [{"cost": "tdx"}, {"strict": False}, {"on_violation": "report"}, {"faults": "busy"}],
)
def test_hardware_cannot_be_told_what_to_do(options: dict[str, object]) -> None:
    with pytest.raises(UsageError, match="hardware has no cost model"):
        on_kvm("snp", **options)


def test_icount_means_the_emulated_platform() -> None:
    spec = guest_spec(target="tdx", clock="icount")
    assert TdxTarget().platform_emulated(spec)
    machine = TdxTarget().machine(spec, FILES, UNDER_TCG)
    assert value(list(machine.args), "-icount") == "shift=0,sleep=off"


@pytest.mark.parametrize(
    "text", ["bsy", "busy,nth=0", "busy,gpa=x", "busy,nth=1,nth=2", "busy,a=1"]
)
def test_a_fault_that_makes_no_sense_is_named(text: str) -> None:
    with pytest.raises(UsageError, match="--faults"):
        guest_spec(target="tdx", accel="tcg", faults=text)
