# SPDX-License-Identifier: MIT
"""A CPU comes up while memory is accepted: acceptance takes no lock that CPU hotplug holds."""

from __future__ import annotations

import pytest

from harness.status import GuestFailure, HarnessError
from harness.suite.hook import HookRefused
from harness.suite.subject import Subject
from harness.units import PAGE_SIZE

pytestmark = [
    pytest.mark.guest,
    pytest.mark.acceptance(memory="640M", vcpus=2, fresh=True, spoils=True, features=("hook",)),
]
DEADLINE_S = 15
"""For a CPU to go down and come up, and its memory to be accepted; a quiet machine takes 1 s."""


def test_a_zones_last_block_is_accepted_while_a_cpu_comes_up(subject: Subject) -> None:
    # All that is free down to the high watermark, 1.5 times the min: the allocator keeps memory up
    # to the promo watermark accepted while it can (cond_accept_memory() in mm/page_alloc.c).
    high_pages = int(subject.read("/proc/sys/vm/min_free_kbytes")) * 1024 * 3 // 2 // PAGE_SIZE
    pages = subject.counters().free_pages - high_pages
    try:
        took = subject.hook_within(DEADLINE_S, "alloc", context="cpuup", count=pages, gfp="noretry")
    except (HookRefused, GuestFailure):  # the guest has a verdict of its own
        raise
    except HarnessError as error:
        # Reading counters would hang as well: this is the verdict.
        raise GuestFailure(f"a CPU hung on its way up: {error.cause}") from error
    subject.verify("cpu-hotplug", not took["corrupt"], f"{took['corrupt']} words corrupt")
    # Nothing was asked for below the high watermark, so everything had to come.
    detail = f"{took['done']} of {pages} pages came, {took['failed']} did not"
    subject.verify("allocation-failed", took["done"] == pages, detail)
    left = subject.counters().unaccepted_pages
    subject.require(left == 0, f"{left} pages are still unaccepted: the last block was not needed")
