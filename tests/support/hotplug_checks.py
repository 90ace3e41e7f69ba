# SPDX-License-Identifier: MIT
"""What plugging memory did to the counters, unit by unit and page by page. Pure.

The page allocator takes new memory in blocks of MAX_PAGE_ORDER (__free_pages_core() in
mm/page_alloc.c, 6.12 and 7.3): a block with a pending unit in it, or right behind it (the guard),
goes to the unaccepted list whole. A memory map that lies in the plugged memory itself
(memmap_on_memory) is accepted as the memory is added, and what is left of its block before the
memory is handed over.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from harness.base.status import PreconditionError, Status
from harness.base.units import MAX_ORDER_PAGES, PAGE_SIZE, PAGES_PER_UNIT, UNIT_SIZE, format_size
from harness.record.check import Check, check
from harness.record.counters import Counters
from harness.record.memory_blocks import MemoryBlocks, MemoryDevice

STRUCT_PAGE = 64
"""sizeof(struct page) in bytes (include/linux/mm_types.h)."""


@dataclass(frozen=True)
class Growth:
    """The effect of plugging memory, in pages unless the name says otherwise."""

    plugged: int
    added_units: int
    """Made pending by the platform."""
    accepted_units: int
    """Accepted meanwhile, for whatever reason."""
    rise: int
    """Of nr_unaccepted, over all zones."""
    fall_elsewhere: int
    """Of nr_unaccepted in zones that got no memory: blocks accepted there for the memory map."""
    used: int
    """Allocated meanwhile: plugged pages less the rise of nr_free_pages."""
    memmap: int
    """Of plugged memory, as it must be: STRUCT_PAGE for each page."""
    memmap_counted: int
    """By how much the kernel's own count of memory maps (nr_memmap_pages) has risen, wherever they
    lie; -1: it does not count them."""
    self_hosted: bool
    """Whether the memory map lies in the plugged memory (memmap_on_memory)."""
    memory_blocks: int
    """Plugged, of the guest's memory block size."""

    @property
    def unlisted(self) -> int:
        """Pages that never enter the unaccepted list: with a memory map on the memory itself, the
        first MAX_PAGE_ORDER block of every memory block."""
        return self.memory_blocks * MAX_ORDER_PAGES if self.self_hosted else 0

    @property
    def taken(self) -> int:
        """Pages in blocks that were accepted out of what was plugged, for its zone's free lists."""
        return self.plugged - self.unlisted - self.rise - self.fall_elsewhere

    def describe(self) -> str:
        """The explanation, to the page."""
        count = f", {self.memmap_counted} by the kernel's count" if self.memmap_counted >= 0 else ""
        return (
            f"pages: {self.plugged} plugged - {self.unlisted} in blocks that hold their memory map "
            f"- {self.taken} accepted for the zone's free lists - {self.fall_elsewhere} accepted "
            f"in other zones = {self.rise} more unaccepted; {self.used} allocated, of them memory "
            f"map {self.memmap}{count}; units: {self.added_units} added, {self.accepted_units} "
            f"accepted"
        )


def growth(
    before: Counters, after: Counters, plugged_bytes: int, block_size: int, *, self_hosted: bool
) -> Growth:
    """What happened between two readings, with `plugged_bytes` put online meanwhile."""
    plugged = plugged_bytes // PAGE_SIZE
    name = "nr_memmap_pages"
    counted = after.vmstat[name] - before.vmstat[name] if name in after.vmstat else -1
    was = {(zone.node, zone.name): zone.unaccepted_pages for zone in before.zones}
    changes = [zone.unaccepted_pages - was.get((zone.node, zone.name), 0) for zone in after.zones]
    return Growth(
        plugged=plugged,
        added_units=after.stat("units_added") - before.stat("units_added"),
        accepted_units=after.stat("accept_units") - before.stat("accept_units"),
        rise=after.unaccepted_pages - before.unaccepted_pages,
        fall_elsewhere=-sum(change for change in changes if change < 0),
        used=plugged - (after.free_pages - before.free_pages),
        memmap=plugged * STRUCT_PAGE // PAGE_SIZE,
        memmap_counted=counted,
        self_hosted=self_hosted,
        memory_blocks=plugged_bytes // block_size,
    )


PROMO_PAGES = 16 * MAX_ORDER_PAGES
"""What a zone keeps accepted and free: cond_accept_memory() (mm/page_alloc.c, 6.12 and 7.3) stops
at the promo watermark, which is below this for zones of up to some 16 GiB."""
BOOSTED_PAGES = PROMO_PAGES * 5 // 2
"""The same while watermarks are boosted, after memory of one migrate type was taken for another: by
up to 1.5 times the high watermark (vm.watermark_boost_factor, boost_watermark() there)."""


def lazy_growth_checks(found: Growth) -> list[Check]:
    """Lazily plugged memory is unaccepted, but for what the guest needs for its memory map."""
    detail = found.describe()
    most = found.used + MAX_ORDER_PAGES
    return [
        check(
            "all that is plugged is made unaccepted",
            found.added_units * PAGES_PER_UNIT == found.plugged and found.plugged > 0,
            detail,
            "hotplug-added",
        ),
        check(
            "nr_unaccepted rises by what is plugged, less whole blocks",
            found.taken % MAX_ORDER_PAGES == 0 and 0 <= found.taken <= BOOSTED_PAGES + most,
            detail,
            "hotplug-rise",
        ),
        check(
            "other zones accept no more than the memory map and a block",
            found.fall_elsewhere <= most,
            detail,
            "hotplug-elsewhere",
        ),
        check(
            "the memory map has the size that what is plugged needs",
            found.memmap_counted in (-1, found.memmap),
            detail,
            "hotplug-memmap",
        ),
    ]


def unaccepted_again(name: str, pending: int, size_bytes: int, spared_units: int) -> Check:
    """Memory plugged again is unaccepted again, but for `spared_units` (guard, memory map)."""
    units = size_bytes // UNIT_SIZE
    if not units:
        raise PreconditionError(f"{name} has no memory to be unaccepted")
    detail = f"{name}: {pending} of {units} units pending, up to {spared_units} may be accepted"
    holds = units - spared_units <= pending <= units
    return check("plugged again, unaccepted again", holds, detail, "hotplug-replug")


def nothing_left(pending: int, where: str) -> Check:
    """Unplugged memory has left both records."""
    detail = f"{pending} units pending in {where}"
    return check("unplugged memory is forgotten", pending == 0, detail, "hotplug-leak")


def none_accepted(before: Counters, after: Counters, what: str) -> Check:
    """Unplugging memory that nobody used needs no acceptance.

    The kernels fail this: isolation accepts every block (set_migratetype_isolate(),
    mm/page_isolation.c, 6.12 and 7.3).
    """
    units = after.stat("accept_units") - before.stat("accept_units")
    removed = after.stat("units_removed") - before.stat("units_removed")
    detail = f"{what}: {units} units accepted for it, {removed} were still unaccepted at the end"
    if units + removed == 0:
        return Check(
            "unplugging untouched memory accepts none", Status.ERROR, detail, "precondition"
        )
    return check(
        "unplugging untouched memory accepts none", units == 0, detail, "hotplug-untouched"
    )


def views_agree(devices: Sequence[MemoryDevice], memory: MemoryBlocks, state: str) -> Check:
    """Every plugged byte is in a block of the right node in `state`, and no block is left over.

    A virtio-mem device may have a block more than its size fills: blocks are added whole, and the
    part that is not plugged stays logically offline (drivers/virtio/virtio_mem.c, 6.12).
    """
    name = "QEMU's memory devices are what the guest sees"
    if not devices:
        return Check(name, Status.ERROR, "QEMU has no memory devices")
    wrong = []
    for device in devices:
        blocks = memory.within(device.address, device.max_size)
        spare = len(blocks) * memory.block_size - device.size
        # Sub-blocks can be unplugged from any block, so only whole DIMMs have an upper bound.
        if spare < 0 or (device.kind == "dimm" and spare):
            wrong.append(
                f"{device.id} has {format_size(device.size)}, the guest shows {len(blocks)} blocks "
                f"of {format_size(memory.block_size)} there"
            )
        for block in blocks:
            if block.state != state or block.node not in (device.node, None):
                wrong.append(
                    f"memory{block.number} of {device.id} is {block.state} on node {block.node}, "
                    f"not {state} on node {device.node}"
                )
    total = sum(device.size for device in devices)
    detail = "; ".join(wrong[:4]) or f"{len(devices)} devices, {format_size(total)}, all {state}"
    return check(name, not wrong, detail)
