# SPDX-License-Identifier: MIT
"""QEMU's command line: for the harness and for a person's hands."""

import itertools
import shlex
from pathlib import Path

from harness.guest.machine import ChannelFds, Machine

MACHINE = Machine(
    Path("/opt/q emu/qemu"),
    (("-m", "4G"), ("-append", "console=ttyS0 a=1"), ("-enable-kvm",)),
    virtio_options="disable-legacy=on,iommu_platform=on",
)


def pairs(argv: list[str]) -> list[tuple[str, str]]:
    return list(itertools.pairwise(argv))


def test_by_hand_it_needs_nothing_of_the_harness() -> None:
    text = MACHINE.command_line()
    argv = shlex.split(text.replace("\\\n", " "))
    assert argv[0] == "/opt/q emu/qemu"
    assert ("-append", "console=ttyS0 a=1") in pairs(argv)
    assert ("-serial", "mon:stdio") in pairs(argv)
    assert any("hostfwd=tcp:127.0.0.1:2222-:22" in word for word in argv)
    assert not any("fd=" in word for word in argv)
    assert all(line.strip() for line in text.splitlines())
    assert max(line.count(" -") for line in text.splitlines()[1:]) == 1


def test_the_harness_gets_the_same_guest_on_inherited_sockets() -> None:
    argv = MACHINE.argv("cvm-1", ChannelFds(7, 8, 9))
    assert ("-m", "4G") in pairs(argv)
    assert "socket,id=qmp,fd=7" in argv
    assert "socket,id=console,fd=8" in argv
    assert "socket,id=ready,fd=9" in argv
    assert ("-name", "cvm-1") in pairs(argv)
    assert any("hostfwd=tcp:127.0.0.1:0-:22" in word for word in argv)


def test_platform_options_reach_every_virtio_device() -> None:
    argv = MACHINE.argv("cvm-1", ChannelFds(7, 8, 9))
    virtio = [word for word in argv if word.startswith("virtio-")]
    assert len(virtio) == 3
    assert all(word.endswith("disable-legacy=on,iommu_platform=on") for word in virtio)
