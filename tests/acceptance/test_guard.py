# SPDX-License-Identifier: MIT
"""The guard: whatever was accepted, what load_unaligned_zeropad() can reach behind it is, too."""

import pytest

from harness.base.units import MIB, PAGE_SIZE, UNIT_SIZE
from harness.suite.subject import Subject
from tests.support.guest_marks import MAIN

pytestmark = [
    pytest.mark.guest,
    MAIN,
    pytest.mark.acceptance(features=("hook", "platform"), ahead=True),
]


@pytest.mark.parametrize("short_of_unit", [0, 1, 64, PAGE_SIZE - 8])
def test_a_range_that_ends_in_a_units_last_page_is_guarded(
    subject: Subject, short_of_unit: int
) -> None:
    # memblock hands out ranges of any length: dentry caches, per-CPU areas, page tables.
    run = max(subject.pending(64 * MIB), key=len)
    unit = (run.start + len(run) // 2) // UNIT_SIZE * UNIT_SIZE
    subject.hook("accept", start=unit, size=UNIT_SIZE - short_of_unit)
    pending = subject.pending()
    subject.require(not any(unit in left for left in pending), "the range was not accepted")
    behind = unit + UNIT_SIZE
    detail = f"accepted up to {behind - short_of_unit:#x}, the unit at {behind:#x} is still pending"
    subject.verify("guard", not any(behind in left for left in pending), detail)
