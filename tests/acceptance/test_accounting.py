# SPDX-License-Identifier: MIT
"""Accounting: every counter of unaccepted memory moves as memory is accepted, and by as much."""

import re

import pytest

from harness.base.units import MAX_ORDER_PAGES, MIB, PAGE_SIZE, PAGES_PER_UNIT
from harness.record.counters import Counters
from harness.suite.subject import Subject
from tests.support.guest_marks import MAIN

pytestmark = [pytest.mark.guest, MAIN]
SIZE = 48 * MIB
BOOST = "/proc/sys/vm/watermark_boost_factor"
_PROMO = re.compile(r"^ +promo +(\d{1,12})$", re.MULTILINE)


@pytest.mark.acceptance(unaccepted="256M")
def test_touching_memory_accepts_it_and_every_counter_follows(subject: Subject) -> None:
    before = subject.soak()
    spare = before.free_pages - before.unaccepted_pages
    subject.touch(spare * PAGE_SIZE + SIZE)
    after = subject.counters()
    fell = before.unaccepted_pages - after.unaccepted_pages
    wanted = SIZE // PAGE_SIZE - MAX_ORDER_PAGES
    detail = f"{fell} pages left the lists; {spare} were free and accepted, {SIZE} bytes more used"
    subject.verify("not-accepted", fell >= wanted, detail)
    # No more than what was used, the watermarks, and what the workload needs for itself.
    subject.verify("over-accepted", fell <= 2 * wanted + spare, detail)


@pytest.mark.acceptance(unaccepted="256M", features=("platform",))
def test_blocks_that_leave_the_lists_are_units_that_were_accepted(subject: Subject) -> None:
    before, units_before = subject.soak(), subject.accepted_units()
    subject.touch(before.free_pages * PAGE_SIZE - before.unaccepted_pages * PAGE_SIZE + SIZE)
    after, units = subject.counters(), subject.accepted_units() - units_before
    fell = before.unaccepted_pages - after.unaccepted_pages
    subject.require(fell > 0, "nothing was accepted")
    blocks = fell // MAX_ORDER_PAGES
    detail = f"{blocks} blocks left the lists, {units} units were accepted"
    # Two units a block; the guard takes a unit of the next block early: one more or less a run.
    holds = abs(units * PAGES_PER_UNIT - fell) <= PAGES_PER_UNIT * blocks
    subject.verify("counters", holds, detail)


@pytest.mark.acceptance(unaccepted="128M")
def test_freed_memory_stays_accepted(subject: Subject) -> None:
    # A boosted watermark (mm/page_alloc.c, boost_watermark()) has more accepted, whatever is free.
    factor = subject.read(BOOST).strip()
    subject.require(subject.write(BOOST, "0"), f"{BOOST} cannot be set")
    try:
        touch_free_and_touch_again(subject)
    finally:
        subject.write(BOOST, factor)


def touch_free_and_touch_again(subject: Subject) -> None:
    before = subject.soak()
    size = (before.free_pages - before.unaccepted_pages) * PAGE_SIZE + SIZE
    subject.touch(size)
    # Below the last watermark more is accepted, whatever has been freed, and free memory of CMA and
    # of high-order atomic reserves (1 % of a zone) does not count (cond_accept_memory()).
    watermark = sum(map(int, _PROMO.findall(subject.read("/proc/zoneinfo"))))
    watermark += (
        before.vmstat.get("nr_free_cma", 0) + before.mem_total_kib // 100 * 1024 // PAGE_SIZE
    )
    wanted = watermark + (SIZE // 2 + 8 * MIB) // PAGE_SIZE

    def freed() -> Counters | None:
        now = subject.counters()
        return now if now.free_pages - now.unaccepted_pages >= wanted else None

    # The program has ended, and the kernel gives back its memory some time after that.
    between = subject.run.guest.wait("the memory to be free again", freed, deadline_s=30)
    subject.require(between.unaccepted_pages < before.unaccepted_pages, "nothing was accepted")
    subject.touch(SIZE // 2)
    after = subject.counters()
    again = between.unaccepted_pages - after.unaccepted_pages
    spare = between.free_pages - between.unaccepted_pages
    detail = (
        f"{again} pages accepted for memory that had been accepted and freed before, "
        f"with {spare} accepted pages free, {watermark} of them below the watermark"
    )
    subject.verify("accepted-again", again <= MAX_ORDER_PAGES, detail)


def test_nothing_is_accepted_while_nothing_is_allocated(subject: Subject) -> None:
    before = subject.counters()
    for _ in range(3):
        subject.counters()
    after = subject.counters()
    fell = before.unaccepted_pages - after.unaccepted_pages
    subject.verify("over-accepted", fell == 0, f"{fell} pages accepted by an idle guest")


def test_sysfs_and_procfs_have_the_counter_under_its_own_name(subject: Subject) -> None:
    # 6.16-rc had every name in /proc/vmstat shifted by one: nr_unaccepted showed numa_hit.
    text = subject.sh("cat /proc/vmstat; echo; grep -h nr_unaccepted /proc/zoneinfo")
    pairs = dict(line.split() for line in text.split("\n\n")[0].splitlines())
    zones = sum(int(line.split()[1]) for line in text.split("\n\n")[1].splitlines())
    value = int(pairs.get("nr_unaccepted", "-1"))
    subject.verify("counters", value == zones, f"vmstat {value} pages, zoneinfo {zones}")
    free, zone_free = int(pairs["nr_free_pages"]), sum(z.free_pages for z in subject.before.zones)
    near = abs(free - zone_free) <= 16 * MAX_ORDER_PAGES
    subject.verify("counters", near, f"nr_free_pages {free} in vmstat, {zone_free} in zoneinfo")
