# SPDX-License-Identifier: MIT
"""Every way in which QEMU or the guest can say no: the right status and cause, nothing left over,
and a guest that goes on working (plugging included)."""

import contextlib
from collections.abc import Iterator

import pytest

from harness.base.status import HarnessError, PreconditionError, UsageError
from harness.base.units import GIB, MIB
from harness.guest.hotplug import Hotplug
from harness.guest.hotplug_events import NoRoom, UnplugRefused
from harness.suite.subject import Subject

pytestmark = [
    pytest.mark.guest,
    pytest.mark.acceptance(
        memory="1G", vcpus=2, maxmem="4G", slots=2, virtio_mem="1G", features=("emulation-stats",)
    ),
]


@contextlib.contextmanager
def refused(subject: Subject, kind: type[HarnessError], words: str) -> Iterator[None]:
    """The block must raise exactly `kind` with `words` in its cause, and change no device."""
    before = Hotplug(subject.run.guest).devices()
    found: HarnessError | None = None
    try:
        yield
    except HarnessError as error:
        found = error
    after = Hotplug(subject.run.guest).devices()
    detail = f"wanted {kind.__name__} ({words}), got {type(found).__name__}: {found}"
    subject.verify("refusal", type(found) is kind and words in str(found), detail)
    subject.verify("hotplug-leak", before == after, f"devices were {before}, are {after}")


def test_what_the_machine_cannot_do_is_named_and_leaves_nothing(subject: Subject) -> None:
    hotplug = Hotplug(subject.run.guest)
    block = hotplug.block_size
    with refused(subject, NoRoom, "no room"):
        hotplug.plug_dimm(8 * GIB)
    with refused(subject, UsageError, "memory blocks"):
        hotplug.plug_dimm(block - 28 * MIB)
    with refused(subject, PreconditionError, "shows memory blocks for 0 B"):
        hotplug.plug_dimm(block - 28 * MIB, whole_blocks=False)
    with refused(subject, UsageError, "NUMA node"):
        hotplug.plug_dimm(block, node=7)
    with refused(subject, UsageError, "cannot grow beyond"):
        hotplug.resize("vmem0", 2 * GIB)
    with refused(subject, UsageError, "alignment"):
        hotplug.resize("vmem0", 3 * MIB)
    with refused(subject, UsageError, "no memory device"):
        hotplug.resize("vmem7", block)

    dimms = [hotplug.plug_dimm(block) for _ in range(2)]
    with refused(subject, NoRoom, "slots"):
        hotplug.plug_dimm(block)
    for dimm in dimms:
        hotplug.unplug_dimm(dimm)
        with refused(subject, UsageError, "no memory device"):
            hotplug.unplug_dimm(dimm)
    subject.verify("hotplug-works", not any(d.size for d in hotplug.devices()), "all unplugged")


@pytest.mark.acceptance(auto_online="online_kernel")
def test_a_dimm_with_memory_that_cannot_move_stays_and_works(subject: Subject) -> None:
    """Kernel memory in ZONE_NORMAL pins it. The guest has none before: boot memory is below."""
    hotplug = Hotplug(subject.run.guest)
    dimm = hotplug.plug_dimm(256 * MIB)
    subject.sh("mkdir /run/pins && cd /run/pins && for i in $(seq 1 500); do mkdir $i; done")
    with pytest.raises(UnplugRefused, match="in use and cannot be moved"):
        hotplug.unplug_dimm(dimm)
    blocks = hotplug.blocks().within(dimm.address, dimm.size)
    states = [block.state for block in blocks]
    subject.verify("hotplug-works", set(states) == {"online"}, f"blocks after it: {states}")
    subject.touch(64 * MIB)
    subject.sh("rm -r /run/pins")


@pytest.mark.acceptance(append=("acpi_no_memhotplug", "initcall_blacklist=virtio_mem_driver_init"))
def test_a_guest_without_drivers_is_named_before_anything_is_plugged(subject: Subject) -> None:
    hotplug = Hotplug(subject.run.guest)
    with refused(subject, PreconditionError, "no support for DIMMs"):
        hotplug.plug_dimm(128 * MIB)
    with refused(subject, PreconditionError, "no support for virtio-mem"):
        hotplug.resize("vmem0", 128 * MIB)
    subject.touch(64 * MIB)
