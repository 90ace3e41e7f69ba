# SPDX-License-Identifier: MIT
"""The accelerator probe is the guest its source says, and a real QEMU runs it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from harness.host.accel import BOOT_SECTOR

SOURCE = Path(__file__).parents[2] / "guest-images" / "accel-probe" / "probe.S"


@pytest.mark.skipif(not shutil.which("gcc"), reason="gcc is not installed")
def test_embedded_boot_sector_is_the_assembled_source(tmp_path: Path) -> None:
    subprocess.run(["gcc", "-c", "-m64", SOURCE, "-o", tmp_path / "probe.o"], check=True)
    link = ["ld", "-N", "-Ttext", "0x7c00", "-e", "start", "--oformat", "binary"]
    subprocess.run([*link, tmp_path / "probe.o", "-o", tmp_path / "probe.bin"], check=True)
    assert (tmp_path / "probe.bin").read_bytes() == BOOT_SECTOR


@pytest.mark.skipif(not shutil.which("qemu-system-x86_64"), reason="QEMU is not installed")
def test_the_probe_guest_reaches_long_mode_under_tcg(tmp_path: Path) -> None:
    (tmp_path / "image").write_bytes(BOOT_SECTOR)
    command = ["qemu-system-x86_64", "-nodefaults", "-display", "none", "-accel", "tcg"]
    drive = f"file={tmp_path / 'image'},format=raw,if=floppy,snapshot=on"
    device = "isa-debug-exit,iobase=0xf4,iosize=4"
    result = subprocess.run(
        [*command, "-m", "32M", "-drive", drive, "-device", device], timeout=30, check=False
    )
    assert result.returncode == 85
