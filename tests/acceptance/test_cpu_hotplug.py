# SPDX-License-Identifier: MIT
"""CPUs that go down and come up, also while memory is accepted: acceptance takes no lock that CPU
hotplug holds."""

from collections.abc import Mapping

import pytest

from harness.base.status import GuestFailure, HarnessError
from harness.base.units import MIB, PAGE_SIZE
from harness.suite.hook import HookRefused
from harness.suite.subject import Subject
from harness.suite.upheavals import cycle_cpu

pytestmark = [
    pytest.mark.guest,
    pytest.mark.acceptance(memory="768M", vcpus=2, fresh=True, spoils=True, features=("hook",)),
]
TRIES = 4
CYCLES = 4
DEADLINE_S = 15
"""For a CPU to go down and come up, and its memory to be accepted; a quiet machine takes 1 s."""


def test_a_zones_last_block_is_accepted_while_a_cpu_comes_up(subject: Subject) -> None:
    # All that is free down to a little above the low watermark, 1.25 times the min, where nobody is
    # kept waiting. Below the promo watermark, 1.75 times, the allocator has all memory accepted
    # (cond_accept_memory() in mm/page_alloc.c). Some of what comes is from the CPUs' own lists, so
    # that more is free afterwards than was meant to be: then once more.
    low_pages = int(subject.read("/proc/sys/vm/min_free_kbytes")) * 1024 * 5 // 4 // PAGE_SIZE
    asked = 0
    for _ in range(TRIES):
        now = subject.counters()
        pages = now.free_pages - low_pages - 256
        if not now.unaccepted_pages or pages <= 0:
            break
        asked += pages
        took = allocate_while_a_cpu_comes_up(subject, pages)
        subject.verify("cpu-hotplug", not took["corrupt"], f"{took['corrupt']} words corrupt")
        # Nothing was asked for below the low watermark, so everything had to come.
        detail = f"{took['done']} of {pages} pages came, {took['failed']} did not"
        subject.verify("allocation-failed", took["done"] == pages, detail)
    subject.require(asked > 0, "nothing was unaccepted, or nothing free")
    left = subject.counters().unaccepted_pages
    subject.require(left == 0, f"{left} pages are still unaccepted: the last block was not needed")


@pytest.mark.acceptance(features=(), unaccepted="64M")
def test_a_cpu_goes_down_and_comes_up_again_and_again(subject: Subject) -> None:
    for _ in range(CYCLES):
        if not cycle_cpu(subject):
            pytest.skip("the CPUs of this guest cannot go down")  # TDX guests
        # Both of its CPUs accept, the one that was down as well.
        touched = subject.touch(48 * MIB, threads=2).touched_bytes
        subject.verify("touch", touched >= 48 * MIB, f"{touched} bytes touched")


def allocate_while_a_cpu_comes_up(subject: Subject, pages: int) -> Mapping[str, int]:
    """The hook's figures. Raises GuestFailure where the CPU does not come."""
    try:
        return subject.hook_within(DEADLINE_S, "alloc", context="cpuup", count=pages, gfp="noretry")
    except HookRefused as refused:
        if "not supported" in refused.cause:  # cpu_hotplug_disable_offlining(): TDX guests
            pytest.skip("the CPUs of this guest cannot go down, and so none can come up")
        raise
    except GuestFailure:  # the guest has a verdict of its own
        raise
    except HarnessError as error:
        # Reading counters would hang as well: this is the verdict.
        raise GuestFailure(f"a CPU hung on its way up: {error.cause}") from error
