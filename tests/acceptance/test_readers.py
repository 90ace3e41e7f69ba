# SPDX-License-Identifier: MIT
"""Who reads all of memory stays off what is unaccepted: kcore, /dev/mem, the page map files."""

import pytest

from harness.base.units import MIB, PAGE_SIZE, UNIT_SIZE
from harness.suite.corefile import KCORE, read_core
from harness.suite.subject import Subject
from tests.support.guest_marks import MAIN

pytestmark = [pytest.mark.guest, MAIN]


@pytest.mark.acceptance(features=("kcore", "platform"))
def test_kcore_reads_unaccepted_memory_as_nothing_and_touches_none(subject: Subject) -> None:
    before, illegal_before = subject.counters(), subject.illegal_accesses()
    read = 0
    for run in subject.pending(UNIT_SIZE)[-4:]:
        for place in (run.start, run.start + len(run) // 2, run.stop - UNIT_SIZE):
            read += read_core(subject, KCORE, place, pages=64)
    subject.require(read > 0, "no pending address could be read through /proc/kcore")
    illegal = subject.illegal_accesses() - illegal_before
    detail = f"{illegal} illegal accesses by {read // PAGE_SIZE} pages read through /proc/kcore"
    subject.verify("illegal-access", illegal == 0, detail)
    fell = before.unaccepted_pages - subject.counters().unaccepted_pages
    subject.verify("over-accepted", fell <= 4 * 1024, f"{fell} pages accepted by reading")


@pytest.mark.acceptance(features=("devmem", "platform"))
def test_devmem_reads_no_unaccepted_memory(subject: Subject) -> None:
    run = max(subject.pending(UNIT_SIZE), key=len)
    before = subject.illegal_accesses()
    page = (run.start + len(run) // 2) // PAGE_SIZE
    script = f"dd if=/dev/mem bs={PAGE_SIZE} skip={page} count=1 2>&1 | head -c 300"
    said = subject.sh(script, check=False)
    illegal = subject.illegal_accesses() - before
    detail = f"{illegal} illegal accesses by reading page {page:#x} of /dev/mem: {said[:80]!r}"
    subject.verify("illegal-access", illegal == 0, detail)


@pytest.mark.acceptance(features=("pagemap", "platform"))
def test_page_map_files_describe_unaccepted_memory_without_touching_it(subject: Subject) -> None:
    run = max(subject.pending(16 * MIB), key=len)
    before = subject.illegal_accesses()
    first, count = run.start // PAGE_SIZE, 2048
    counts = subject.sh(
        f"for f in kpageflags kpagecount; do "
        f"dd if=/proc/$f bs=8 skip={first} count={count} 2>/dev/null | wc -c; done"
    ).split()
    subject.require(all(int(c) == 8 * count for c in counts), f"short reads: {counts}")
    used = subject.run.guest.run(
        f"dd if=/proc/kpagecount bs=8 skip={first} count={count} 2>/dev/null"
    ).stdout
    subject.verify("lists", not any(used), "a page of unaccepted memory is mapped by someone")
    illegal = subject.illegal_accesses() - before
    subject.verify("illegal-access", illegal == 0, f"{illegal} illegal accesses")
