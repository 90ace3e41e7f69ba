# SPDX-License-Identifier: MIT
"""A second kernel, by kexec and after a crash: it gets memory that is accepted, and the table."""

from __future__ import annotations

import time

import pytest

from harness.base.units import MIB, UNIT_SIZE
from harness.suite.corefile import VMCORE, read_core
from harness.suite.subject import Subject
from harness.workloads import kexec

pytestmark = [pytest.mark.guest, pytest.mark.tier("full")]
SPOILT = pytest.mark.acceptance(
    memory="2G", vcpus=2, layers=("kexec",), fresh=True, spoils=True, unaccepted="512M",
    features=("kexec", "emulated"), large_calls=True, ahead=True,
)  # fmt: skip


def load(subject: Subject, how: str, cmdline: str) -> None:
    """Load the guest's own kernel and initrd. `how`: options of kexec."""
    guest = subject.run.guest
    kexec.load(guest, *kexec.boot_files(guest), how, cmdline)


def start_next(subject: Subject, script: str) -> int:
    """Run what ends this kernel, without waiting for its answer; host time before it."""
    now = time.monotonic_ns()
    subject.run.guest.start(f"(sleep 1; {script}) > /dev/null 2>&1 < /dev/null &")
    return now


@SPOILT
@pytest.mark.parametrize(
    ("route", "how"),
    [
        pytest.param(route, how, marks=pytest.mark.acceptance(route=route))
        for route in ("direct", "efi")
        for how in ("-l", "-s -l")
    ],
)
def test_a_kernel_started_by_kexec_has_its_memory_accepted(
    subject: Subject, route: str, how: str
) -> None:
    cmdline = subject.read("/proc/cmdline").strip()
    load(subject, how, cmdline)
    illegal = subject.illegal_accesses()
    since = start_next(subject, "kexec -e")
    after = subject.next_kernel(since)
    console = (subject.run.directory.path / "console.log").read_text(errors="replace")
    bypassed = console.count("ILLEGAL ACCESS")
    detail = f"{bypassed} reports of memory touched while unaccepted, {illegal} before the kexec"
    subject.verify("illegal-access", bypassed == 0, detail)
    subject.verify("kexec", after.stat("active") == 1, "the emulated platform is off")
    subject.verify("kexec", after.unaccepted_pages > 0, f"{after.unaccepted_pages} pages left")
    touched = subject.touch(64 * MIB).touched_bytes
    subject.verify("touch", touched >= 64 * MIB, f"{touched} bytes touched in the second kernel")


@SPOILT
def test_kexec_accepts_the_memory_that_its_segments_go_to(subject: Subject) -> None:
    # Left alone, kexec takes the end of memory, which the boot has accepted for itself.
    middle = max(subject.pending(512 * MIB), key=len)
    low, high = middle.start + 64 * MIB, middle.stop - 64 * MIB
    cmdline = subject.read("/proc/cmdline").strip()
    load(subject, f"-c -l --mem-min={low:#x} --mem-max={high:#x}", cmdline)
    subject.next_kernel(start_next(subject, "kexec -e"))
    console = (subject.run.directory.path / "console.log").read_text(errors="replace")
    found = console.count("ILLEGAL ACCESS")
    detail = f"{found} reports, segments between {low:#x} and {high:#x}"
    subject.verify("illegal-access", found == 0, detail)


@SPOILT
@pytest.mark.acceptance(splats=("panic",), append=("crashkernel=320M",), route="efi")
def test_a_crash_kernel_reads_the_old_memory_and_none_that_is_unaccepted(subject: Subject) -> None:
    words = subject.read("/proc/cmdline").split()
    kept = [word for word in words if not word.startswith("crashkernel=")]
    cmdline = " ".join([*kept, "nr_cpus=1", "reset_devices"])
    run = max(subject.pending(UNIT_SIZE), key=len)
    load(subject, "-p", cmdline)
    since = start_next(subject, "echo c > /proc/sysrq-trigger")
    subject.next_kernel(since, crash=True)
    read = read_core(subject, VMCORE, run.start, pages=512)
    console = (subject.run.directory.path / "console.log").read_text(errors="replace")
    subject.require(read > 0, f"the crash kernel did not offer {run.start:#x}")
    bypassed = console.count("ILLEGAL ACCESS")
    subject.verify("illegal-access", bypassed == 0, f"{bypassed} reports, {read} bytes read")
