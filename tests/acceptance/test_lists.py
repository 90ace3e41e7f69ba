# SPDX-License-Identifier: MIT
"""Page types, free lists and the table agree; no memory in use has unaccepted memory behind it."""

from collections.abc import Mapping

import pytest

from harness.base.units import MAX_ORDER_PAGES, MIB
from harness.suite.subject import Subject
from tests.support.guest_marks import MAIN

pytestmark = [pytest.mark.guest, MAIN, pytest.mark.acceptance(features=("hook",))]

LISTS = ("listed_without_type", "listed_wrong", "zone_counter_wrong", "pending_unlisted")
UNSAFE = ("free_but_pending",)
GUARD = ("free_unguarded", "used_unguarded")


def settled(subject: Subject, names: tuple[str, ...]) -> Mapping[str, int]:
    """A scan; repeated where it found something, as it does not stop who accepts meanwhile."""
    scan = subject.hook("scan")
    for _ in range(2):
        if not any(scan[name] for name in names):
            break
        scan = subject.hook("scan")
    return scan


def found(scan: Mapping[str, int], names: tuple[str, ...]) -> str:
    where = (f"{n} {scan[n]} (first {scan[f'{n}_first']:#x})" for n in names if scan[n])
    return ", ".join(where) or f"none, with {scan['blocks']} blocks listed"


def judge(subject: Subject) -> None:
    scan = settled(subject, (*LISTS, *UNSAFE, *GUARD))
    subject.require(scan["blocks"] > 0, "no block is on the lists of unaccepted memory")
    for names, signal in ((LISTS, "lists"), (UNSAFE, "free-but-pending"), (GUARD, "guard")):
        subject.verify(signal, not any(scan[name] for name in names), found(scan, names))
    counted = subject.counters().unaccepted_pages
    detail = f"{scan['blocks']} blocks listed, nr_unaccepted {counted}"
    subject.verify("lists", scan["blocks"] * MAX_ORDER_PAGES >= counted, detail)


@pytest.mark.acceptance(fresh=True)
def test_after_boot_lists_types_and_table_agree(subject: Subject) -> None:
    judge(subject)


def test_after_mixed_allocations_lists_types_and_table_agree(subject: Subject) -> None:
    before = subject.soak()
    for order, count in ((0, 3000), (3, 500), (9, 8), (10, 5)):
        subject.hook("alloc", order=order, count=count)
        subject.hook("thin", stride=3)
    subject.must_have_accepted(before)
    judge(subject)
    subject.hook("free")
    judge(subject)


@pytest.mark.acceptance(features=("hook", "platform"))
def test_reads_over_the_end_of_memory_in_use_do_not_reach_unaccepted_memory(
    subject: Subject,
) -> None:
    before, illegal_before = subject.soak(), subject.illegal_accesses()
    subject.hook("alloc", order=10, count=16 * MIB // (MAX_ORDER_PAGES << 12) + 1)
    subject.must_have_accepted(before)
    reads = subject.hook("zeropad")["reads"]
    subject.hook("free")
    illegal = subject.illegal_accesses() - illegal_before
    detail = f"{illegal} of {reads} reads over a unit's end touched unaccepted memory"
    subject.verify("illegal-access", illegal == 0 and reads > 0, detail)
