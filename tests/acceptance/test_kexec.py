# SPDX-License-Identifier: MIT
"""A second kernel, by kexec and after a crash: it gets memory that is accepted, and the table."""

import time

import pytest

from harness.base.units import MIB, PAGE_SIZE, UNIT_SIZE
from harness.suite.corefile import VMCORE, read_core
from harness.suite.subject import Subject
from harness.workloads import kexec

pytestmark = [pytest.mark.guest, pytest.mark.tier("full")]
SPOILT = pytest.mark.acceptance(
    memory="2G", vcpus=2, layers=("kexec",), fresh=True, spoils=True, unaccepted="512M",
    features=("kexec", "platform"), large_calls=True, ahead=True,
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


def crash_cmdline(subject: Subject) -> str:
    words = subject.read("/proc/cmdline").split()
    kept = [word for word in words if not word.startswith("crashkernel=")]
    return " ".join([*kept, "nr_cpus=1", "reset_devices"])


def illegal_accesses(subject: Subject) -> int:
    """How often memory was touched while unaccepted, by all of the guest's kernels."""
    if subject.run.platform:
        return subject.illegal_accesses()
    # Another kernel has counters of its own.
    console = (subject.run.directory.path / "console.log").read_text(errors="replace")
    return console.count("ILLEGAL ACCESS")


@SPOILT
@pytest.mark.parametrize("how", ["-l", "-s -l"])
@pytest.mark.parametrize(
    "route", ["default", pytest.param("efi", marks=pytest.mark.acceptance(route="efi"))]
)
def test_a_kernel_started_by_kexec_has_its_memory_accepted(
    subject: Subject, route: str, how: str
) -> None:
    cmdline = subject.read("/proc/cmdline").strip()
    load(subject, how, cmdline)
    illegal = illegal_accesses(subject)
    after = subject.next_kernel(start_next(subject, "kexec -e"))
    found = illegal_accesses(subject)
    detail = f"{found} reports of memory touched while unaccepted, {illegal} before the kexec"
    subject.verify("illegal-access", found == 0, detail)
    if not subject.run.platform:
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
    found = illegal_accesses(subject)
    detail = f"{found} reports, segments between {low:#x} and {high:#x}"
    subject.verify("illegal-access", found == 0, detail)


@SPOILT
@pytest.mark.acceptance(
    splats=("panic",), append=("crashkernel=320M",), route="efi", features=("kexec", "emulated")
)
def test_a_crash_kernel_reads_the_old_memory_and_none_that_is_unaccepted(subject: Subject) -> None:
    run = max(subject.pending(UNIT_SIZE), key=len)
    load(subject, "-p", crash_cmdline(subject))
    subject.next_kernel(kexec.crash(subject.run.guest), crash=True)
    read = read_core(subject, VMCORE, run.start, pages=512)
    subject.require(read > 0, f"the crash kernel did not offer {run.start:#x}")
    found = illegal_accesses(subject)
    subject.verify("illegal-access", found == 0, f"{found} reports, {read} bytes read")


CONFIDENTIAL = pytest.mark.acceptance(
    # Of what is below 4 GiB there is too little for all of it under TCG.
    memory="1536M", append=("crashkernel=320M,high", "crashkernel=96M,low"), splats=("panic",),
    unaccepted="128M", features=("kexec", "confidential", "platform"),
)  # fmt: skip
MOST_PAGES = 1024
"""Read of each run of shared memory: a page takes a hundred microseconds under TCG."""


@SPOILT
@CONFIDENTIAL
@pytest.mark.parametrize(("how", "cpu"), [("-c -p", 0), ("-s -p", 1)], ids=kexec.CALLS)
def test_a_crash_kernel_of_a_confidential_guest_reads_what_was_shared_and_unaccepted(
    subject: Subject, how: str, cpu: int
) -> None:
    assert subject.run.platform
    unaccepted = max(subject.pending(UNIT_SIZE), key=len)
    shared = subject.run.platform.shared()
    release = subject.read("/proc/sys/kernel/osrelease").strip()
    load(subject, how, crash_cmdline(subject))
    subject.next_kernel(kexec.crash(subject.run.guest, cpu), 300, crash=True)
    notes = subject.sh(f"head -c 65536 {VMCORE} | grep -ac OSRELEASE={release}", check=False)
    subject.verify("vmcore", notes.strip() == "1", f"{notes.strip()} notes of the old kernel")
    read = read_core(subject, VMCORE, unaccepted.start, pages=512)
    subject.verify("vmcore", read == UNIT_SIZE, f"{read} bytes of unaccepted memory read")
    pages = 0
    for run in shared:
        wanted = min(len(run) // PAGE_SIZE, MOST_PAGES)
        pages += read_core(subject, VMCORE, run.start, wanted) // PAGE_SIZE
    subject.verify("vmcore", pages >= MOST_PAGES, f"{pages} pages read that were shared")
    illegal = subject.illegal_accesses()
    subject.verify("illegal-access", illegal == 0, f"{illegal} illegal accesses")
