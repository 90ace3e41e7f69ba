# SPDX-License-Identifier: MIT
"""Plugged memory is unaccepted until it is allocated, is forgotten when it goes, and comes back
unaccepted. Every invariant is checked over each test (harness/suite)."""

import pytest

from harness.base.units import GIB, MAX_ORDER_PAGES, MIB, PAGE_SIZE, UNIT_SIZE
from harness.guest.hotplug import Hotplug
from harness.suite.subject import Subject
from harness.workloads.hotplug import filled
from tests.support.hotplug_checks import (
    growth,
    lazy_growth_checks,
    none_accepted,
    nothing_left,
    unaccepted_again,
    views_agree,
)

pytestmark = [
    pytest.mark.guest,
    pytest.mark.acceptance(
        memory="1G", vcpus=2, maxmem="16G", slots=8, virtio_mem="4G", features=("emulation-stats",)
    ),
]
SPARED = 64
"""Units of a device plugged again that may be accepted: the guard at its start, and blocks for its
zone's free lists and for the commands of the test itself."""


@pytest.mark.parametrize(
    ("dimm_bytes", "virtio_mem_bytes"),
    [
        pytest.param(128 * MIB, 512 * MIB, id="1GiB"),
        pytest.param(GIB, 4 * GIB, id="8GiB", marks=pytest.mark.tier("full")),
    ],
)
def test_what_is_plugged_is_unaccepted_until_it_is_allocated(
    subject: Subject, dimm_bytes: int, virtio_mem_bytes: int
) -> None:
    hotplug = Hotplug(subject.run.guest)
    block_size = hotplug.block_size
    before = subject.counters()

    dimms = [hotplug.plug_dimm(dimm_bytes) for _ in range(4)]
    with_dimms = subject.counters()
    found = growth(before, with_dimms, 4 * dimm_bytes, block_size, self_hosted=False)
    subject.checks += lazy_growth_checks(found)

    hotplug.resize("vmem0", virtio_mem_bytes)
    full = subject.counters()
    found = growth(with_dimms, full, virtio_mem_bytes, block_size, self_hosted=False)
    subject.checks += lazy_growth_checks(found)
    subject.checks.append(views_agree(hotplug.devices(), hotplug.blocks(), "online"))

    still = subject.counters()
    subject.verify(
        "not-lazy",
        full.unaccepted_pages - still.unaccepted_pages <= 2 * MAX_ORDER_PAGES,
        f"{full.unaccepted_pages} pages, then {still.unaccepted_pages} with nobody allocating",
    )
    accepted_free = still.free_pages - still.unaccepted_pages
    size = 256 * MIB + accepted_free * PAGE_SIZE
    subject.touch(size, threads=2)
    after = subject.counters()
    fell = still.unaccepted_pages - after.unaccepted_pages
    least, most = 256 * MIB // PAGE_SIZE, size // PAGE_SIZE
    detail = f"{fell} pages accepted for at least {least}, at most {most} pages"
    subject.verify("not-accepted", least <= fell <= most + 32 * MAX_ORDER_PAGES, detail)
    with filled(subject.run.guest, 32 * MIB):
        for dimm in dimms:
            hotplug.unplug_dimm(dimm)
        hotplug.resize("vmem0", 0)
    vmem = hotplug.device("vmem0")
    subject.checks.append(nothing_left(hotplug.pending(vmem), "vmem0's memory"))
    empty = subject.counters()
    kept = empty.stat("units_added") - empty.stat("units_removed")
    subject.verify(
        "hotplug-leak",
        empty.mem_total_kib <= before.mem_total_kib,
        f"MemTotal {before.mem_total_kib} KiB before, {empty.mem_total_kib} KiB after; {kept} "
        f"units of what was plugged were accepted",
    )


def test_memory_plugged_again_is_unaccepted_again(subject: Subject) -> None:
    hotplug = Hotplug(subject.run.guest)
    for _ in range(2):
        dimm = hotplug.plug_dimm(256 * MIB)
        pending = hotplug.pending(hotplug.device(dimm.id))
        subject.checks.append(unaccepted_again(dimm.id, pending, dimm.size, SPARED))
        with filled(subject.run.guest, 64 * MIB):
            used = pending - hotplug.pending(hotplug.device(dimm.id))
            subject.verify("not-accepted", used > 0, f"{used} of its units accepted for a file")
            hotplug.unplug_dimm(dimm)
        left = hotplug.pending(dimm)
        subject.checks.append(nothing_left(left, dimm.id))


def test_sub_blocks_of_virtio_mem_are_unaccepted_again(subject: Subject) -> None:
    """A part of a memory block goes and comes back while the block stays.

    What comes back is pending whole, also units that were accepted in between as the guard of a
    block before them. The kernel may accept it at once: virtio-mem hands it over in pieces smaller
    than MAX_PAGE_ORDER where it does not begin and end at a multiple of that.
    """
    hotplug = Hotplug(subject.run.guest)
    block = hotplug.block_size
    gone = (block - block // 4) // UNIT_SIZE
    hotplug.resize("vmem0", block)
    for _ in range(2):
        before = subject.counters()
        hotplug.resize("vmem0", block // 4)
        less = subject.counters()
        added = less.stat("units_added") - before.stat("units_added")
        detail = f"{gone} units unplugged within a block, {added} made pending by that"
        subject.verify("hotplug-added", added == gone, detail)
        offline = less.stat("pending_offline")
        detail = f"{offline} of {gone} unplugged units still pending, the rest accepted as guards"
        subject.verify("hotplug-offline", 0 < offline <= gone, detail)

        hotplug.resize("vmem0", block)
        full = subject.counters()
        again = full.stat("units_added") - less.stat("units_added")
        detail = f"{gone} units plugged again: {offline} were pending, {again} made pending"
        subject.verify("hotplug-replug", offline + again == gone, detail)
        offline = full.stat("pending_offline")
        detail = f"{offline} units pending offline with all of the block plugged"
        subject.verify("hotplug-offline", offline == 0, detail)
    hotplug.resize("vmem0", 0)
    vmem = hotplug.device("vmem0")
    subject.checks.append(nothing_left(hotplug.pending(vmem), "vmem0's memory"))


def test_virtio_mem_grows_and_shrinks_in_steps(subject: Subject) -> None:
    hotplug = Hotplug(subject.run.guest)
    sizes = [step * 96 * MIB for step in (1, 4, 9, 5, 2)]
    for size in sizes:
        hotplug.resize("vmem0", size)
        counters = subject.counters()
        subject.checks.append(views_agree(hotplug.devices(), hotplug.blocks(), "online"))
        balance = (
            counters.stat("units_marked")
            + counters.stat("units_added")
            - counters.stat("units_removed")
            - counters.stat("accept_units")
            - counters.stat("backend_pending")
        )
        subject.verify("conservation", balance == 0, f"{balance} units unaccounted at {size}")
    hotplug.resize("vmem0", 0)


def test_unplugging_memory_never_touched_accepts_nothing(subject: Subject) -> None:
    """Online memory is accepted to be isolated: a known defect of released kernels."""
    hotplug = Hotplug(subject.run.guest)
    dimm = hotplug.plug_dimm(256 * MIB)
    before = subject.counters()
    hotplug.unplug_dimm(dimm)
    subject.checks.append(none_accepted(before, subject.counters(), dimm.id))
