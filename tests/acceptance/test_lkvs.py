# SPDX-License-Identifier: MIT
"""What Intel's LKVS tests of lazy acceptance, each with the preconditions it lacks there.

Its names in parentheses. NEG (eager), KEXEC and the boots of many sizes are in test_boot.py and
test_kexec.py. Durations are judged against the same guest with everything accepted, not against
a constant.
"""

import re

import pytest

from harness.base.units import MIB, PAGE_SIZE
from harness.kernel.kernel import Kernel
from harness.suite.subject import Subject
from tests.support.guest_marks import MAIN

pytestmark = [pytest.mark.guest]
STRESS = pytest.mark.acceptance(
    memory="1G", vcpus=2, layers=("stress-ng",), unaccepted="256M", fresh=True
)


@MAIN
def test_the_kernel_is_configured_for_it(subject: Subject, cvm_kernel: Kernel) -> None:
    """(KCONFIG)"""
    text = subject.sh("zcat /proc/config.gz | grep UNACCEPTED_MEMORY", check=False)
    if not text and cvm_kernel.config:  # Debian's kernels have theirs in a file beside them
        text = f"CONFIG_UNACCEPTED_MEMORY={cvm_kernel.setting('UNACCEPTED_MEMORY')}"
    subject.verify("config", "CONFIG_UNACCEPTED_MEMORY=y" in text.split(), text.strip()[:100])


@MAIN
def test_vmstat_and_meminfo_have_the_same_and_it_is_not_nothing(subject: Subject) -> None:
    """(CAL)"""
    text = subject.sh("grep nr_unaccepted /proc/vmstat; grep Unaccepted: /proc/meminfo")
    match = re.fullmatch(r"nr_unaccepted (\d+)\nUnaccepted: +(\d+) kB\n", text)
    subject.require(match is not None, f"unreadable: {text[:100]!r}")
    pages, kib = (int(group) for group in match.groups()) if match else (0, 0)
    detail = f"{pages} pages in vmstat, {kib} KiB in meminfo"
    subject.verify("counters", pages * PAGE_SIZE == kib << 10 and pages > 0, detail)


@STRESS
@pytest.mark.tier("full")
@pytest.mark.acceptance(spoils=True, reclaim=True)
def test_stress_ng_on_all_memory_has_it_accepted(subject: Subject) -> None:
    """(FUNC)"""
    before = subject.before
    subject.sh("stress-ng --vm 1 --vm-bytes 70% --vm-ops 1 -t 150", deadline_s=180)
    fell = subject.accepted_since(before)
    subject.verify("not-accepted", fell * PAGE_SIZE > 128 * MIB, f"{fell} pages accepted")


@STRESS
@pytest.mark.tier("full")
@pytest.mark.acceptance(reclaim=True, spoils=True)
def test_memrate_and_mappings_of_many_threads(subject: Subject) -> None:
    """(STRESS_MEMRATE, EBIZZY)"""
    before = subject.soak()  # what boot left accepted would do for all of it
    script = (
        "stress-ng --memrate 2 --memrate-bytes 96M --memrate-ops 2 -t 20 && "
        "stress-ng --mmap 2 --mmap-bytes 64M --mmap-ops 4 -t 20 && "
        "stress-ng --malloc 4 --malloc-bytes 24M --malloc-ops 2000 -t 20"
    )
    done = subject.run.guest.run(script, deadline_s=300, check=False)
    subject.verify("stress", done.exit_status == 0, f"exit {done.exit_status}: {done.text[-200:]}")
    subject.must_have_accepted(before)


@pytest.mark.tier("full")
@pytest.mark.acceptance(memory="1536M", vcpus=4, unaccepted="512M", fresh=True, spoils=True)
@pytest.mark.acceptance(reclaim=True, splats=("oom",))
def test_many_workers_accept_all_there_is(subject: Subject) -> None:
    """(T_…C_…G_…W: N × `tail /dev/zero` until nothing is unaccepted)"""
    script = "for i in 1 2 3 4; do tail /dev/zero > /dev/null 2>&1 & done; wait"
    subject.run.guest.run(script, deadline_s=300, check=False)
    left = subject.counters().unaccepted_pages
    subject.verify("not-accepted", left == 0, f"{left} pages unaccepted after all was used up")
