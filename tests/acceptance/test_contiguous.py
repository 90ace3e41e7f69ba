# SPDX-License-Identifier: MIT
"""Contiguous ranges, isolation, CMA and offlining accept the memory they take away."""

from collections.abc import Mapping

import pytest

from harness.base.units import MAX_ORDER_PAGES, MIB, PAGE_SIZE, UNIT_SIZE
from harness.suite.subject import Subject
from tests.support.guest_marks import MAIN

pytestmark = [pytest.mark.guest, MAIN, pytest.mark.acceptance(features=("hook",))]
BLOCK = MAX_ORDER_PAGES * PAGE_SIZE
PLATFORM = ("hook", "platform")


def inside_pending(subject: Subject, size: int) -> int:
    """The address of `size` bytes, on a block boundary, in the midst of pending memory."""
    run = max(subject.pending(size + 4 * BLOCK), key=len)
    return (run.start + (len(run) - size) // 2) // BLOCK * BLOCK


def judge(subject: Subject, figures: Mapping[str, int]) -> None:
    detail = f"errno {figures.get('errno', 0)}"
    if subject.verify("isolation", figures["done"] == 1, detail):
        left = figures.get("unaccepted_left", 0)
        subject.verify("isolation", left == 0, "the range still has unaccepted memory in it")
        subject.verify("corrupt", figures.get("corrupt", 0) == 0, "words changed")


@pytest.mark.acceptance(features=PLATFORM)
def test_a_contiguous_range_in_unaccepted_memory(subject: Subject) -> None:
    before = subject.counters()
    judge(subject, subject.hook("range", start=inside_pending(subject, 32 * MIB), size=32 * MIB))
    subject.must_have_accepted(before, 28 * MIB)
    subject.hook("free")


@pytest.mark.acceptance(features=PLATFORM)
def test_a_range_that_ends_within_blocks(subject: Subject) -> None:
    before = subject.counters()
    start = inside_pending(subject, 16 * MIB) + MIB
    judge(subject, subject.hook("range", start=start, size=9 * MIB))
    subject.must_have_accepted(before, 8 * MIB)
    subject.hook("free")


# Where it fails the guest is not used again: last, then.
@pytest.mark.acceptance(features=PLATFORM, spoils=True)
def test_a_range_that_begins_in_the_midst_of_a_block(subject: Subject) -> None:
    # A pageblock (2 MiB) is half of what is accepted at a time: its first page need not be the
    # one that says that the block is unaccepted.
    before = subject.counters()
    start = inside_pending(subject, 16 * MIB) + UNIT_SIZE
    figures = subject.hook("range", start=start, size=12 * MIB)
    detail = f"{12 * MIB:#x} bytes at {start:#x}, all of it unaccepted: errno {figures['errno']}"
    if subject.verify("isolation-within-block", figures["done"] == 1, detail):
        judge(subject, figures)
        subject.must_have_accepted(before, 8 * MIB)
        subject.hook("free")


def test_contiguous_pages_anywhere(subject: Subject) -> None:
    figures = subject.hook("contig", size=24 * MIB, count=2)
    detail = f"{figures['done']} of 2 ranges of 24 MiB came"
    subject.verify("isolation", figures["done"] == 2, detail)
    subject.verify("corrupt", figures["corrupt"] == 0, f"{figures['corrupt']} words changed")
    subject.hook("free")


@pytest.mark.acceptance(features=PLATFORM)
def test_isolating_a_range_accepts_it(subject: Subject) -> None:
    before = subject.counters()
    figures = subject.hook("isolate", start=inside_pending(subject, 16 * MIB), size=16 * MIB)
    judge(subject, figures)
    subject.verify("isolation", figures.get("isolated") == 1, "the range is not free and isolated")
    subject.must_have_accepted(before, 12 * MIB)


def test_cma_gives_its_area(subject: Subject) -> None:
    if not subject.hook("status")["has_cma"]:
        pytest.skip("the guest has no CMA area")
    figures = subject.hook("cma", size=16 * MIB)
    subject.verify("isolation", figures["done"] == 1, "cma_alloc() of 16 MiB failed")
    subject.verify("corrupt", figures.get("corrupt", 0) == 0, "words changed")
    subject.hook("free")


@pytest.mark.acceptance(features=("hotremove", "platform"), unaccepted="512M")
def test_offlining_a_memory_block_that_was_never_touched(subject: Subject) -> None:
    base = "/sys/devices/system/memory"
    size = int(subject.read(f"{base}/block_size_bytes"), 16)
    run = next((r for r in subject.pending() if r.stop - -(-r.start // size) * size >= size), None)
    if run is None:
        pytest.skip("no memory block is unaccepted from end to end")
    number = -(-run.start // size)
    state = f"{base}/memory{number}/state"
    before = subject.counters()
    offline = subject.write(state, "offline", deadline_s=120)
    subject.verify("offline", offline, f"memory{number} could not be taken offline")
    subject.must_have_accepted(before, size - 2 * BLOCK)
    if offline:
        total = subject.counters().mem_total_kib
        less = before.mem_total_kib - total
        subject.verify("offline", less == size >> 10, f"MemTotal fell by {less} KiB")
        online = subject.write(state, "online", deadline_s=120)
        subject.verify("offline", online, f"memory{number} could not be put online again")
