# SPDX-License-Identifier: MIT
"""Each way to allocate accepts what it needs: single and bulk, every order, every context."""

from collections.abc import Mapping

import pytest

from harness.base.units import MIB, PAGE_SIZE
from harness.suite.subject import Subject
from tests.support.guest_marks import MAIN

pytestmark = [pytest.mark.guest, MAIN, pytest.mark.acceptance(features=("hook",))]
SIZE = 24 * MIB


def allocate(subject: Subject, **words: int | str) -> Mapping[str, int]:
    """Allocate after a soak, free again; all of it must have come, and been accepted."""
    before = subject.soak()
    figures = subject.hook("alloc", **words)
    subject.must_have_accepted(before)
    subject.hook("free")
    return figures


def judge(subject: Subject, figures: Mapping[str, int], wanted: int) -> None:
    detail = f"{figures['done']} of {wanted} came, {figures['failed']} failed"
    subject.verify("allocation-failed", figures["done"] == wanted, detail)
    subject.verify("corrupt", figures["corrupt"] == 0, f"{figures['corrupt']} words changed")


@pytest.mark.parametrize("order", [0, 1, 3, 9, 10])
def test_an_allocation_of_any_order(subject: Subject, order: int) -> None:
    count = SIZE // (PAGE_SIZE << order)
    judge(subject, allocate(subject, order=order, count=count), count)


@pytest.mark.parametrize("gfp", ["movable", "noretry", "dma32"])
def test_an_allocation_of_any_kind(subject: Subject, gfp: str) -> None:
    count = SIZE // PAGE_SIZE
    if gfp == "dma32" and not subject.has("emulated"):
        low = [zone for zone in subject.counters().zones if zone.name == "DMA32"]
        if not any(zone.unaccepted_pages for zone in low):
            pytest.skip("the firmware has accepted all memory below 4 GiB, as OVMF does")
    if gfp == "movable":  # may come from the CMA area: that is free beside what a soak leaves
        count += subject.counters().vmstat.get("nr_free_cma", 0)
    judge(subject, allocate(subject, gfp=gfp, count=count), count)


@pytest.mark.parametrize("context", ["irqsoff", "softirq", "hardirq"])
def test_an_allocation_that_may_not_sleep(subject: Subject, context: str) -> None:
    count = SIZE // 2 // PAGE_SIZE
    judge(subject, allocate(subject, gfp="atomic", context=context, count=count), count)


def test_high_orders_in_interrupts(subject: Subject) -> None:
    count = SIZE // (PAGE_SIZE << 3)
    judge(subject, allocate(subject, gfp="atomic", context="hardirq", order=3, count=count), count)


@pytest.mark.acceptance(unaccepted="384M")
def test_bulk_calls_are_served_whole(subject: Subject) -> None:
    before = subject.soak()
    # More than is accepted and free at any time (the promo watermark, 80 MiB here): watermarks
    # count unaccepted memory as free, so a call comes short only when the lists are empty.
    figures = subject.hook("bulk", count=256, repeat=192)
    subject.must_have_accepted(before)
    subject.hook("free")
    whole, calls = figures["whole_calls"], figures["calls"]
    detail = f"{whole} of {calls} calls gave all pages, {figures['done']} of {figures['wanted']}"
    subject.verify("bulk", whole == calls, detail)
    subject.verify("corrupt", figures["corrupt"] == 0, f"{figures['corrupt']} words changed")


def test_an_allocation_that_may_not_take_locks(subject: Subject) -> None:
    if not subject.hook("status")["has_nolock"]:
        pytest.skip("alloc_pages_nolock() came with 6.15")
    left = subject.soak().unaccepted_pages
    subject.require(left > 0, "nothing is unaccepted")
    figures = subject.hook("alloc", gfp="nolock", count=32)
    subject.hook("free")
    judge(subject, figures, 32)


def test_slab_objects_of_fresh_memory(subject: Subject) -> None:
    before = subject.soak()
    count = SIZE // (8 << 10)
    figures = subject.hook("slab", size=8 << 10, count=count)
    subject.must_have_accepted(before)
    judge(subject, figures, count)


def test_vmalloc_of_fresh_memory(subject: Subject) -> None:
    before = subject.soak()
    figures = subject.hook("vmalloc", size=SIZE)
    subject.must_have_accepted(before)
    judge(subject, figures, 1)


def test_files_in_the_page_cache_keep_their_content(subject: Subject) -> None:
    before = subject.soak()
    count = SIZE // MIB
    script = (
        "dd if=/dev/urandom of=/tmp/seed bs=1M count=1 2>/dev/null; "
        f"for i in $(seq {count}); do cat /tmp/seed; done > /tmp/file; "
        f"for i in $(seq {count}); do "
        "dd if=/tmp/file of=/tmp/part.$i bs=1M skip=$((i - 1)) count=1 2>/dev/null; done; "
        "md5sum /tmp/seed /tmp/part.* | cut -c1-32"
    )
    sums = subject.sh(script).split()
    subject.must_have_accepted(before)
    subject.sh("rm -f /tmp/file /tmp/part.* /tmp/seed")
    subject.require(len(sums) == 1 + count, f"{len(sums)} files were read, {1 + count} are there")
    contents = len(set(sums))
    subject.verify("corrupt", contents == 1, f"{contents} contents of {count} copies of one file")
