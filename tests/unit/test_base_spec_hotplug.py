# SPDX-License-Identifier: MIT
"""Hotplug in a guest's description: what is accepted, and which command lines it makes."""

from pathlib import Path

import pytest

from harness.base.emulation import HotplugPolicy
from harness.base.guest_options import spec_arguments
from harness.base.spec import Accel, AutoOnline, GuestSpec, TargetName
from harness.base.status import NotApplicable, Status, UsageError
from harness.qemu.binary import Qemu
from harness.targets.base import BootFiles, HostFacts, need_hotplug
from harness.targets.choose import guest_spec
from harness.targets.emulated import EmulatedTarget
from harness.targets.registry import target_for


def command(**options: object) -> str:
    host = HostFacts(Qemu(Path("qemu"), "7.2"), Accel.TCG, "")
    files = BootFiles(Path("k"), Path("i"))
    return EmulatedTarget().machine(guest_spec(**options), files, host).command_line()


def test_a_guest_that_can_grow_has_slots_and_the_kernels_parameters() -> None:
    line = command(memory="2G", maxmem="16G", virtio_mem="4G", auto_online="online")
    assert "-m 2048M,slots=8,maxmem=16384M" in line
    assert "virtio-mem-pci,id=vmem0,memdev=vmem0ram,node=0,requested-size=0" in line
    assert "memhp_default_state=online memory_hotplug.memmap_on_memory=N" in line
    assert "memmap_on_memory=Y" in command(maxmem="16G", memmap_on_memory=True)


def test_every_node_has_its_virtio_mem_device() -> None:
    line = command(memory="2G", maxmem="16G", virtio_mem="1G", numa_nodes=2)
    assert "id=vmem1,memdev=vmem1ram,node=1" in line


def test_a_guest_without_maxmem_has_nothing_of_it() -> None:
    line = command(memory="2G")
    assert not any(word in line for word in ("slots", "virtio-mem", "memhp", "memmap_on"))


@pytest.mark.parametrize(
    "options",
    [
        {"slots": 4},
        {"virtio_mem": "1G"},
        {"memory": "2G", "maxmem": "2G"},
        {"memory": "2G", "maxmem": "1G"},
        {"memory": "2G", "maxmem": "4G", "virtio_mem": "3G"},
        {"maxmem": "2T"},
        {"maxmem": "16G", "slots": 257},
        {"hotplug": "never"},
        {"auto_online": "maybe"},
    ],
)
def test_what_no_guest_can_be_is_a_usage_error(options: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        guest_spec(**options)


def test_the_rerun_command_has_all_of_it() -> None:
    spec = guest_spec(
        memory="2G",
        maxmem="16G",
        slots=4,
        virtio_mem="4G",
        hotplug="eager",
        memmap_on_memory=True,
        auto_online="offline",
    )
    arguments = spec_arguments(spec, "debian:6.12")
    for word in (
        "--maxmem=16384M",
        "--slots=4",
        "--virtio-mem=4096M",
        "--hotplug=eager",
        "--memmap-on-memory",
        "--auto-online=offline",
    ):
        assert word in arguments
    assert spec.emulation.hotplug is HotplugPolicy.EAGER
    assert spec.auto_online is AutoOnline.OFFLINE


@pytest.mark.parametrize("target", [TargetName.SNP, TargetName.TDX])
def test_hardware_targets_are_a_skip_with_the_reason(target: TargetName) -> None:
    with pytest.raises(NotApplicable, match="no acceptance for hot-added memory") as found:
        need_hotplug(target_for(target), GuestSpec(target=target))
    assert found.value.status is Status.SKIP
    assert found.value.exit_code == 0
    assert EmulatedTarget().why_no_hotplug(GuestSpec()) == ""
