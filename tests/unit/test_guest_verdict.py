# SPDX-License-Identifier: MIT
"""A guest that dies of QEMU's own fault is a MISS; the same words elsewhere stay a FAIL."""

import dataclasses
from pathlib import Path

import pytest

from harness.base.spec import Accel, Clock, GuestSpec
from harness.base.status import EmulatorFlaw
from harness.guest.verdict import on_stale_code
from harness.qemu.binary import Qemu
from harness.record.console import ConsoleScanner
from harness.targets.base import BootFiles, HostFacts
from harness.targets.emulated import EmulatedTarget

CONSOLE = b"""[   13.966754] Oops: int3: 0000 [#1] SMP
[   13.967422] CPU: 1 UID: 0 PID: 35 Comm: kcompactd0 Not tainted 6.12.117 #1
[   13.967698] RIP: 0010:__schedule+0x204/0x700
[   13.970992] Kernel panic - not syncing: Fatal exception in interrupt
"""


def test_a_stale_breakpoint_is_qemus_fault() -> None:
    scanner = ConsoleScanner()
    scanner.feed(CONSOLE, 1)
    verdict = on_stale_code(scanner.splats)
    assert verdict
    assert verdict.error is EmulatorFlaw
    assert "int3" in verdict.cause
    assert "8.1" in verdict.hint


def test_any_other_oops_is_not() -> None:
    scanner = ConsoleScanner()
    scanner.feed(CONSOLE.replace(b"Oops: int3", b"Oops: general protection fault"), 1)
    assert scanner.splats
    assert on_stale_code(scanner.splats) is None


@pytest.mark.parametrize(
    ("version", "accel", "clock", "vcpus", "stale"),
    [
        ("7.2.22", Accel.TCG, Clock.WALL, 2, True),
        ("7.2.22", Accel.TCG, Clock.WALL, 1, False),
        ("7.2.22", Accel.TCG, Clock.ICOUNT, 2, False),
        ("7.2.22", Accel.KVM, Clock.WALL, 2, False),
        ("8.1.0", Accel.TCG, Clock.WALL, 2, False),
        ("11.1.0", Accel.TCG, Clock.WALL, 2, False),
    ],
)
def test_only_old_multi_threaded_tcg_is_suspected(
    version: str, accel: Accel, clock: Clock, vcpus: int, stale: bool
) -> None:
    spec = dataclasses.replace(GuestSpec(), vcpus=vcpus, clock=clock)
    host = HostFacts(Qemu(Path("/q"), version), accel, "")
    files = BootFiles(Path("/k"), Path("/i"))
    assert EmulatedTarget().machine(spec, files, host).stale_code is stale
