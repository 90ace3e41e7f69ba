# SPDX-License-Identifier: MIT
"""The accelerator probe is the guest its source says, and a real QEMU runs it."""

import shutil
import subprocess
from pathlib import Path

import pytest

from harness.host.accel import BOOT_SECTOR, _judge, _run

SOURCE = Path(__file__).parents[2] / "guest-images" / "accel-probe" / "probe.S"


@pytest.mark.skipif(not shutil.which("gcc"), reason="gcc is not installed")
def test_embedded_boot_sector_is_the_assembled_source(tmp_path: Path) -> None:
    subprocess.run(["gcc", "-c", "-m64", SOURCE, "-o", tmp_path / "probe.o"], check=True)
    link = ["ld", "-N", "-Ttext", "0x7c00", "-e", "start", "--oformat", "binary"]
    subprocess.run([*link, tmp_path / "probe.o", "-o", tmp_path / "probe.bin"], check=True)
    assert (tmp_path / "probe.bin").read_bytes() == BOOT_SECTOR


@pytest.mark.skipif(not shutil.which("qemu-system-x86_64"), reason="QEMU is not installed")
def test_the_probe_guest_comes_to_its_end_under_tcg(tmp_path: Path) -> None:
    (tmp_path / "image").write_bytes(BOOT_SECTOR)
    command = ["qemu-system-x86_64", "-nodefaults", "-display", "none", "-accel", "tcg"]
    drive = f"file={tmp_path / 'image'},format=raw,if=floppy,snapshot=on"
    device = "isa-debug-exit,iobase=0xf4,iosize=4"
    result = subprocess.run(
        [*command, "-m", "32M", "-drive", drive, "-device", device], timeout=30, check=False
    )
    assert result.returncode == 85


@pytest.mark.parametrize(
    ("script", "works", "evidence"),
    [
        ("exit 85", True, "worked"),
        ("echo KVM internal error. Suberror: 1 >&2; exec sleep 60", False, "Suberror: 1"),
        ("exec sleep 60", False, "not done in 1 s"),
        ("echo failed to set MSR 0x10a >&2; exit 134", False, "status 134: failed to set MSR"),
    ],
)
def test_what_qemu_does_says_whether_kvm_works(script: str, works: bool, evidence: str) -> None:
    probe = _judge(*_run(["sh", "-c", script], 1.0), 1.0)
    assert probe.kvm_works == works
    assert evidence in probe.evidence
    assert probe.timed_out == ("1 s" in evidence)
