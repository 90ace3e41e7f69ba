# SPDX-License-Identifier: MIT
"""Huge pages out of unaccepted memory: transparent, hugetlb of 2 MiB and of 1 GiB."""

import pytest

from harness.base.units import GIB, MIB, PAGE_SIZE
from harness.suite.subject import Subject
from tests.support.guest_marks import MAIN

pytestmark = [pytest.mark.guest, MAIN]
SIZE = 48 * MIB
HUGETLB = "/sys/kernel/mm/hugepages/hugepages-{}kB"


def verify_all_huge(subject: Subject, size: int) -> None:
    report = subject.touch(size, page="thp").reports[0]
    huge = report["anon_huge_bytes"]
    detail = f"{huge // MIB} of {size // MIB} MiB came as transparent huge pages"
    subject.verify("thp-fallback", huge >= size, detail)


@pytest.mark.acceptance(features=("thp", "hook"), unaccepted="128M")
def test_transparent_huge_pages_do_not_fall_back(subject: Subject) -> None:
    before = subject.soak()
    verify_all_huge(subject, SIZE)
    subject.must_have_accepted(before)


# A fresh guest: what others accepted and gave back would serve all of it.
@pytest.mark.acceptance(features=("thp", "hook", "compaction"), unaccepted="512M", fresh=True)
def test_transparent_huge_pages_while_what_is_accepted_is_fragmented(subject: Subject) -> None:
    subject.soak()
    count = 384 * MIB // PAGE_SIZE
    subject.hook("alloc", count=count)
    subject.hook("thin", stride=2)  # free pages, none next to another: more than any watermark
    before = subject.counters()
    size = 4 * SIZE  # more than the blocks that were accepted ahead, up to the promo watermark
    subject.require(before.unaccepted_pages * PAGE_SIZE >= 2 * size, "too little is unaccepted")
    verify_all_huge(subject, size)
    subject.hook("free")


@pytest.mark.acceptance(features=("hugetlb-2m", "hook"), unaccepted="128M")
def test_hugetlb_pages_of_2_mib(subject: Subject) -> None:
    before = subject.soak()
    path, wanted = HUGETLB.format(2048) + "/nr_hugepages", SIZE // (2 * MIB)
    subject.write(path, str(wanted))
    got = int(subject.read(path))
    subject.verify("hugetlb", got == wanted, f"{got} of {wanted} pages of 2 MiB")
    touched = subject.touch(SIZE, page="hugetlb").touched_bytes if got == wanted else 0
    subject.verify("hugetlb", touched == SIZE, f"{touched} of {SIZE} bytes touched")
    subject.must_have_accepted(before)
    subject.write(path, "0")


# More room than for two: an allocation in a block that was just accepted for it spoils a whole GiB.
@pytest.mark.tier("full")
@pytest.mark.acceptance(memory="8G", fresh=True, features=("hugetlb-1g",), unaccepted="4G")
def test_hugetlb_pages_of_1_gib(subject: Subject) -> None:
    before = subject.before
    path = HUGETLB.format(GIB >> 10) + "/nr_hugepages"
    subject.write(path, "2", deadline_s=120)
    got = int(subject.read(path))
    subject.verify("hugetlb", got == 2, f"{got} of 2 pages of 1 GiB")
    subject.must_have_accepted(before, GIB)
    subject.write(path, "0")
