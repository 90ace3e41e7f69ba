# SPDX-License-Identifier: MIT
"""Contract with a real, recent QEMU, on machines without the hardware.

Everything the SNP and TDX targets put on a command line exists there, each command line gets as far
as the question to KVM and no further, and the harness knows that refusal. What is left of a command
line without the confidential object starts.
"""

import dataclasses
import functools
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.base.spec import Accel, GuestSpec
from harness.base.status import HostError, Status
from harness.guest.guest import Guest
from harness.guest.machine import Machine, devices
from harness.host import firmware, ovmf
from harness.host.devices import CAP_VM_TYPES, VmType, check_extension
from harness.host.firmware import find_firmware
from harness.host.hardware import SnpHost
from harness.host.view import LiveHost
from harness.image.keys import Keys
from harness.targets.base import BootFiles, HostFacts
from harness.targets.choose import guest_spec
from harness.targets.registry import target_for
from tests.support.qemu_root import QemuRoot
from tests.support.real_qemu import RealQemu, unconfidential, without_kvm

VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "eager": {"accept": "eager", "vcpus": 8},
    "numa": {"numa_nodes": 2, "vcpus": 4},
    "huge": {"huge_pages": "2M"},
    "debug": {"guest_debug": True},
    "disk": {"disk": "disk.img"},
}
CASES = [(target, name) for target in ("snp", "tdx") for name in VARIANTS]
TYPES = {"snp": VmType.SNP, "tdx": VmType.TDX}
NAMES = {"snp": "SEV-SNP", "tdx": "TDX"}


@pytest.fixture
def files(tmp_path: Path) -> BootFiles:
    for name in ("bzImage", "initrd", "OVMF.fd", "disk.img"):
        (tmp_path / name).write_bytes(bytes(1 << 16))
    (tmp_path / "seed").mkdir()
    (tmp_path / "seed/meta-data").write_text("{}")
    return BootFiles(
        tmp_path / "bzImage", tmp_path / "initrd", tmp_path / "OVMF.fd", tmp_path / "seed"
    )


def spec_of(target: str, variant: str, files: BootFiles) -> GuestSpec:
    options = dict(VARIANTS[variant])
    if "disk" in options:
        options["disk"] = str(files.kernel.parent / options["disk"])
    return guest_spec(target=target, memory="4G", **options)


def machine_of(target: str, variant: str, files: BootFiles, real: RealQemu) -> Machine:
    spec = spec_of(target, variant, files)
    host = HostFacts(
        real.qemu, Accel.KVM, "contract", kernel_hashes=True, snp=SnpHost(51, True, 99, 0)
    )
    return target_for(spec.target).machine(spec, files, host)


def options_of(machine: Machine) -> list[tuple[str, ...]]:
    return [*machine.args, *devices(machine.virtio_options, 0)]


def parsed(value: str) -> dict[str, str]:
    """An option's value; its first word is under "". JSON gives the same."""
    if value.startswith("{"):
        fields = {key: str(item) for key, item in json.loads(value).items()}
        return {"": fields.pop("qom-type", fields.get("driver", "")), **fields}
    words = value.replace(",,", "\0").split(",")
    pairs = (word.partition("=") for word in words[1:])
    return {"": words[0], **{key: item.replace("\0", ",") for key, _, item in pairs}}


def values(machine: Machine, option: str) -> Iterator[dict[str, str]]:
    for name, *rest in options_of(machine):
        if name == option:
            yield parsed(rest[0])


@functools.cache
def listed(real: RealQemu, command: str, kind: str) -> frozenset[str]:
    idle = ["-machine", "none", "-display", "none", "-nodefaults"]
    (answer,) = real.ask(idle, [(command, {"typename": kind})])
    return frozenset(entry["name"] for entry in answer)


@functools.cache
def schema_members(real: RealQemu, kind: str) -> frozenset[str]:
    """What object-add takes for an object of `kind`, by the QAPI schema."""
    idle = ["-machine", "none", "-display", "none", "-nodefaults"]
    (schema,) = real.ask(idle, [("query-qmp-schema", {})])
    entities = {entity["name"]: entity for entity in schema}
    command = next(e for e in schema if e["meta-type"] == "command" and e["name"] == "object-add")
    argument = entities[command["arg-type"]]
    cases = {v["case"]: v["type"] for v in argument["variants"]}
    assert kind in cases, f"object-add does not know {kind}"
    members = [*argument["members"], *entities[cases[kind]].get("members", [])]
    return frozenset(member["name"] for member in members)


@pytest.mark.parametrize(("target", "variant"), CASES)
def test_every_object_and_property_exists(
    real: RealQemu, files: BootFiles, target: str, variant: str
) -> None:
    machine = machine_of(target, variant, files, real)
    seen = 0
    for given in values(machine, "-object"):
        kind = given.pop("")
        properties = {key for key in given if key != "id"}
        assert properties <= listed(real, "qom-list-properties", kind), kind
        assert properties <= schema_members(real, kind), kind
        seen += 1
    assert seen >= 3  # the guest, its memory, the source of entropy


@pytest.mark.parametrize(("target", "variant"), CASES)
def test_every_device_machine_and_cpu_option_exists(
    real: RealQemu, files: BootFiles, target: str, variant: str
) -> None:
    machine = machine_of(target, variant, files, real)
    seen = 0
    for given in values(machine, "-device"):
        kind = given.pop("")
        assert given.keys() - {"id"} <= listed(real, "device-list-properties", kind), kind
        seen += 1
    assert seen >= 5

    idle = ["-machine", "none", "-display", "none", "-nodefaults"]
    machines, cpus = real.ask(idle, [("query-machines", {}), ("query-cpu-definitions", {})])
    (given,) = values(machine, "-machine")
    alias = given.pop("")
    kind = next(m["name"] for m in machines if m.get("alias") == alias)
    known = listed(real, "qom-list-properties", f"{kind}-machine")
    known |= listed(real, "qom-list-properties", "kvm-accel")  # kernel-irqchip is handed on
    assert given.keys() <= known

    (cpu,) = values(machine, "-cpu")
    model = cpu.pop("")
    definition = next(c for c in cpus if c["name"] == model)
    assert cpu.keys() <= listed(real, "device-list-properties", definition["typename"])


def refusal_here(target: str) -> tuple[str, str]:
    """What KVM's part of QEMU must say on this machine, and a word of the harness' hint."""
    try:
        mask = check_extension(CAP_VM_TYPES)
    except FileNotFoundError:
        return "Could not access KVM kernel module: No such file or directory", "load kvm_amd"
    except PermissionError:
        return "Could not access KVM kernel module: Permission denied", "usermod -aG kvm"
    if mask >> TYPES[target] & 1:
        pytest.skip(f"this host has {NAMES[target]}: the guest would start")
    return f"vm-type {NAMES[target]} not supported by KVM", f"doctor --target={target}"


def start(machine: Machine, tmp_path: Path) -> HostError:
    """Start it as a run would; it must not get anywhere."""
    keys = Keys.generate(tmp_path / "keys")
    with pytest.raises(HostError) as error, Guest(machine, tmp_path / "run", keys=keys):
        pytest.fail("a confidential guest started on a machine without the hardware")
    return error.value


@pytest.mark.parametrize(("target", "variant"), CASES)
def test_each_command_line_gets_to_the_question_to_kvm_and_the_answer_is_understood(
    real: RealQemu, files: BootFiles, tmp_path: Path, target: str, variant: str
) -> None:
    words, hint = refusal_here(target)
    error = start(machine_of(target, variant, files, real), tmp_path)
    assert error.status is Status.MISS
    assert "QEMU gave up" in error.cause
    assert words in error.cause
    assert hint in error.hint
    assert any(words in line for line in error.details), "the original text is kept"


@pytest.mark.parametrize("target", ["snp", "tdx"])
def test_under_tcg_qemu_asks_for_kvm_and_the_answer_is_understood(
    real: RealQemu, files: BootFiles, tmp_path: Path, target: str
) -> None:
    machine = without_kvm(machine_of(target, "plain", files, real))
    error = start(machine, tmp_path)
    kind = {"snp": "sev-snp-guest", "tdx": "tdx-guest"}[target]
    assert f"cannot set up private guest memory for {kind}: KVM required" in error.cause
    assert "without KVM" in error.cause
    assert "--target=emulated" in error.hint


@pytest.mark.parametrize(("target", "variant"), CASES)
def test_the_rest_of_each_command_line_starts(
    real: RealQemu, files: BootFiles, target: str, variant: str
) -> None:
    machine = without_kvm(machine_of(target, variant, files, real))
    plumbing = [("-chardev", "null,id=ready"), *devices(machine.virtio_options, 0)]
    words = [w for option in (*unconfidential(machine), *plumbing) for w in option]
    (status,) = real.ask(["-nodefaults", "-display", "none", "-S", *words], [("query-status", {})])
    assert status["status"] == "prelaunch"


class RootView(LiveHost):
    """Firmware paths as they are inside a root."""

    def __init__(self, root: Path) -> None:
        super().__init__()
        self.root = root

    def ovmf_table(self, path: str) -> dict[str, str]:
        return super().ovmf_table(f"{self.root}{path}")

    def ovmf_drivers_mention(self, path: str, guid: str) -> bool:
        return super().ovmf_drivers_mention(f"{self.root}{path}", guid)


def test_real_descriptors_lead_to_firmware_that_can_do_it(root: QemuRoot) -> None:
    view = RootView(root.root)
    snp = find_firmware(firmware.SNP, view, None, [root.descriptors])
    assert snp.path.name == "OVMF.amdsev.fd"
    assert snp.kernel_hashes
    signed = dataclasses.replace(firmware.TDX, unsigned_kernel=False)
    assert "tdx" in find_firmware(signed, view, None, [root.descriptors]).path.name
    unsigned = find_firmware(firmware.TDX, view, None, [root.descriptors])
    assert unsigned.path.name == "OVMF.fd"
    assert any("Secure Boot keys are enrolled" in r for r in unsigned.rejected)
    assert any("does not claim intel-tdx" in r for r in unsigned.rejected)


def test_real_images_have_the_tables_the_reader_expects(root: QemuRoot) -> None:
    plain = ovmf.read_table(root.root / "usr/share/ovmf/OVMF.fd")
    assert {ovmf.SEV_METADATA, ovmf.TDX_METADATA} <= plain.keys()
    assert len(plain[ovmf.SEV_HASH_TABLE]) == 8  # address and size, 0 in builds without
    amd = ovmf.read_table(root.root / "usr/share/ovmf/OVMF.amdsev.fd")
    base, size = (int.from_bytes(amd[ovmf.SEV_HASH_TABLE][at : at + 4], "little") for at in (0, 4))
    assert 0 < base < 16 << 20
    assert size >= 3 * 32  # three SHA-256


def test_the_qemu_checked_against_is_recent(real: RealQemu) -> None:
    assert real.qemu.number >= (10, 1)
    assert os.access(real.qemu.binary, os.X_OK)
