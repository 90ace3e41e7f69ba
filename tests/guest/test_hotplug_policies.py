# SPDX-License-Identifier: MIT
"""When plugged memory is accepted (lazy, eager, online, off), where its memory map lies, on which
node it is, and what a table that ends with the boot memory means."""

import pytest

from harness.base.units import MIB, UNIT_SIZE
from harness.guest.hotplug import Dimm, Hotplug
from harness.suite.subject import Subject
from tests.support.hotplug_checks import growth, lazy_growth_checks, unaccepted_again, views_agree
from tests.support.memory_blocks import set_blocks

pytestmark = [
    pytest.mark.guest,
    pytest.mark.acceptance(
        memory="1G",
        vcpus=2,
        maxmem="8G",
        slots=4,
        virtio_mem="512M",
        features=("emulation-stats",),
    ),
]
SIZE = 256 * MIB
UNITS = SIZE // UNIT_SIZE


def accepted(subject: Subject, hotplug: Hotplug, dimm: Dimm) -> int:
    """Units of a DIMM that are accepted now."""
    return dimm.size // UNIT_SIZE - hotplug.pending(hotplug.device(dimm.id))


@pytest.mark.acceptance(hotplug="eager", auto_online="offline")
def test_eager_accepts_all_in_the_add_path(subject: Subject) -> None:
    """Also on the way back: unplugged and plugged again, it is made pending and accepted again."""
    hotplug = Hotplug(subject.run.guest)
    for _ in range(2):
        before = subject.counters()
        dimm = hotplug.plug_dimm(SIZE)
        after = subject.counters()
        subject.checks.append(views_agree([dimm], hotplug.blocks(), "offline"))
        units = accepted(subject, hotplug, dimm)
        detail = f"{units} of {UNITS} units accepted with the blocks still offline"
        subject.verify("hotplug-eager", units == UNITS, detail)
        added = after.stat("units_added") - before.stat("units_added")
        subject.verify("hotplug-added", added == UNITS, f"{added} units were made pending for it")
        hotplug.unplug_dimm(dimm)


@pytest.mark.acceptance(hotplug="online", auto_online="offline")
def test_online_accepts_each_block_as_it_goes_online(subject: Subject) -> None:
    hotplug = Hotplug(subject.run.guest)
    dimm = hotplug.plug_dimm(SIZE)
    units = accepted(subject, hotplug, dimm)
    subject.verify("hotplug-online", units == 0, f"{units} units accepted while offline")
    first = hotplug.blocks().within(dimm.address, dimm.size)[0]
    refused = set_blocks(subject.run.guest, [first.number], "online_movable")
    subject.verify("hotplug-blocks", not refused, f"refused: {refused}")
    units, block_units = accepted(subject, hotplug, dimm), hotplug.block_size // UNIT_SIZE
    detail = f"{units} units accepted with one block of {block_units} online"
    subject.verify("hotplug-online", block_units <= units <= block_units + 1, detail)
    hotplug.unplug_dimm(dimm)


@pytest.mark.acceptance(hotplug="online", auto_online="offline")
def test_memory_never_online_is_unplugged_unaccepted(subject: Subject) -> None:
    """The one way in which unplugging untouched memory accepts nothing in released kernels."""
    hotplug = Hotplug(subject.run.guest)
    dimm = hotplug.plug_dimm(SIZE)
    before = subject.counters()
    hotplug.unplug_dimm(dimm)
    after = subject.counters()
    units = after.stat("accept_units") - before.stat("accept_units")
    removed = after.stat("units_removed") - before.stat("units_removed")
    detail = f"{units} units accepted, {removed} of {UNITS} removed as they were"
    # The commands of the test itself may have a block of boot memory accepted.
    subject.verify("hotplug-untouched", removed == UNITS and units <= 6, detail)


@pytest.mark.acceptance(hotplug="off")
def test_with_the_policy_off_plugged_memory_comes_accepted(subject: Subject) -> None:
    hotplug = Hotplug(subject.run.guest)
    before = subject.counters()
    dimm = hotplug.plug_dimm(SIZE)
    after = subject.counters()
    added = after.stat("units_added") - before.stat("units_added")
    subject.verify("hotplug-added", added == 0, f"{added} units made pending")
    subject.touch(64 * MIB)
    hotplug.unplug_dimm(dimm)


@pytest.mark.acceptance(memmap_on_memory=True)
def test_a_memory_map_on_the_plugged_memory_is_accepted_with_it(subject: Subject) -> None:
    hotplug = Hotplug(subject.run.guest)
    before = subject.counters()
    dimm = hotplug.plug_dimm(SIZE)
    after = subject.counters()
    found = growth(before, after, SIZE, hotplug.block_size, self_hosted=True)
    subject.checks += lazy_growth_checks(found)
    blocks = SIZE // hotplug.block_size
    # Of each block the memory map's unit, its guard, and what is accepted with the rest of the
    # guard's MAX_PAGE_ORDER block: see docs/hotplug.md.
    pending = hotplug.pending(hotplug.device(dimm.id))
    detail = f"{UNITS - pending} of {UNITS} units accepted, in {blocks} memory blocks"
    subject.verify("hotplug-memmap", UNITS - pending >= blocks, detail)
    subject.checks.append(unaccepted_again(dimm.id, pending, SIZE, 4 * blocks + 32))
    hotplug.unplug_dimm(dimm)


@pytest.mark.acceptance(auto_online="offline")
def test_blocks_wait_offline_and_go_where_they_are_put(subject: Subject) -> None:
    hotplug = Hotplug(subject.run.guest)
    dimm = hotplug.plug_dimm(SIZE)
    subject.verify(
        "hotplug-offline",
        subject.counters().stat("pending_offline") == UNITS,
        f"{subject.counters().stat('pending_offline')} units pending offline, {UNITS} plugged",
    )
    numbers = [block.number for block in hotplug.blocks().within(dimm.address, dimm.size)]
    refused = set_blocks(subject.run.guest, numbers[:1], "online_kernel")
    refused |= set_blocks(subject.run.guest, numbers[1:], "online_movable")
    zones = [block.zones for block in hotplug.blocks().within(dimm.address, dimm.size)]
    detail = f"zones {zones}, refused {refused}"
    subject.verify("hotplug-blocks", zones == [("Normal",), ("Movable",)], detail)
    subject.touch(64 * MIB)


@pytest.mark.acceptance(numa_nodes=2)
def test_memory_goes_to_the_node_it_is_plugged_to(subject: Subject) -> None:
    hotplug = Hotplug(subject.run.guest)
    before = subject.counters().node_unaccepted_kib
    dimm = hotplug.plug_dimm(SIZE, node=1)
    hotplug.resize("vmem1", hotplug.block_size)
    after = subject.counters().node_unaccepted_kib
    subject.checks.append(views_agree(hotplug.devices()[:1], hotplug.blocks(), "online"))
    subject.checks.append(views_agree([dimm], hotplug.blocks(), "online"))
    size_kib = (SIZE + hotplug.block_size) // 1024
    rises = {node: after[node] - before[node] for node in after}
    detail = f"unaccepted KiB rose by {rises} per node for {size_kib} plugged to node 1"
    least = size_kib - 64 * 1024
    subject.verify("hotplug-node", rises[0] <= 0 and least <= rises[1] <= size_kib, detail)
    hotplug.unplug_dimm(dimm)
    hotplug.resize("vmem1", 0)


@pytest.mark.tier("full")
@pytest.mark.acceptance(route="efi", memory="1G")
def test_memory_beyond_the_firmwares_table_stays_accepted(subject: Subject) -> None:
    """The stub's table ends with the boot memory, and does not grow."""
    hotplug = Hotplug(subject.run.guest)
    before = subject.counters()
    dimm = hotplug.plug_dimm(SIZE)
    after = subject.counters()
    outside = after.stat("units_outside_table") - before.stat("units_outside_table")
    subject.verify("hotplug-table", outside == UNITS, f"{outside} of {UNITS} units are outside")
    same = before.stat("table_units") == after.stat("table_units")
    subject.verify("hotplug-table", same, f"the table has {after.stat('table_units')} units")
    added = after.stat("units_added") - before.stat("units_added")
    subject.verify("hotplug-added", added == 0, f"{added} units were made pending")
    hotplug.unplug_dimm(dimm)
