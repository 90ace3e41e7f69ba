# SPDX-License-Identifier: MIT
"""Plugging while the guest is busy, short of memory, or limited; and blocks through sysfs."""

import pytest

from harness.base.status import PreconditionError
from harness.base.units import GIB, MAX_ORDER_PAGES, MIB, PAGE_SIZE, UNIT_SIZE
from harness.guest.hotplug import Dimm, Hotplug
from harness.guest.hotplug_events import NoRoom
from harness.suite.subject import Subject
from harness.workloads.hotplug import HotplugCycle, PlugWhileAllocating, filled
from tests.support.hotplug_checks import growth, lazy_growth_checks, views_agree
from tests.support.memory_blocks import set_blocks

pytestmark = [
    pytest.mark.guest,
    pytest.mark.acceptance(
        memory="1G",
        vcpus=2,
        maxmem="16G",
        slots=8,
        virtio_mem="1G",
        features=("emulation-stats",),
    ),
]


def plug_to_the_limit(hotplug: Hotplug, dimm_bytes: int) -> list[Dimm]:
    """Plug DIMMs until QEMU refuses one for lack of a slot or of room; all that were plugged."""
    dimms: list[Dimm] = []
    while True:
        try:
            dimms.append(hotplug.plug_dimm(dimm_bytes))
        except NoRoom:
            return dimms


UNPLUG_ONLINE = "/sys/module/virtio_mem/parameters/unplug_online"


@pytest.mark.acceptance(spoils=True)  # what it plugged stays
def test_plugging_while_threads_allocate(subject: Subject) -> None:
    load = PlugWhileAllocating(bytes=192 * MIB, threads=8, dimms=4, dimm_bytes=256 * MIB)
    result = load.run(subject.run.guest, lambda _: None)
    during = result.reports[0]["plugged_while_allocating"]
    subject.verify("precondition", during == 4, f"{during} of 4 plugged with threads allocating")
    added = subject.counters().stat("units_added") - subject.before.stat("units_added")
    subject.verify("hotplug-added", added == GIB // UNIT_SIZE, f"{added} units added")
    hotplug = Hotplug(subject.run.guest)
    subject.checks.append(views_agree(hotplug.devices(), hotplug.blocks(), "online"))


@pytest.mark.acceptance(fresh=True)
def test_plugging_up_to_the_limit(subject: Subject) -> None:
    hotplug = Hotplug(subject.run.guest)
    before = subject.counters()
    dimms = plug_to_the_limit(hotplug, 256 * MIB)
    subject.verify("precondition", len(dimms) == 8, f"{len(dimms)} DIMMs in 8 slots")
    after = subject.counters()
    found = growth(before, after, 2 * GIB, hotplug.block_size, self_hosted=False)
    subject.checks += lazy_growth_checks(found)
    subject.checks.append(views_agree(hotplug.devices(), hotplug.blocks(), "online"))


@pytest.mark.acceptance(fresh=True)
def test_a_plug_rescues_a_guest_that_runs_out_of_memory(subject: Subject) -> None:
    """What is allocated afterwards did not fit before; no reclaim, no OOM kill (both checked)."""
    hotplug = Hotplug(subject.run.guest)
    left = 192 * MIB
    with filled(subject.run.guest, subject.available_bytes() - left, verify=False):
        short = subject.available_bytes()
        subject.require(short < 256 * MIB, f"{short} bytes are still available")
        hotplug.plug_dimm(512 * MIB)
        subject.touch(384 * MIB)
    subject.verify("oom", subject.counters().vmstat["oom_kill"] == 0, "nobody was killed")


@pytest.mark.acceptance(features=("memcg",), reclaim=True)
def test_plugging_under_a_memcg_limit(subject: Subject) -> None:
    """Plugged memory does not count against a group's limit, and does not lift it."""
    group, limit = "/sys/fs/cgroup/cvm-plug", 128 * MIB
    subject.sh(
        "mountpoint -q /sys/fs/cgroup || mount -t cgroup2 none /sys/fs/cgroup; "
        "cd /sys/fs/cgroup && "
        f"echo +memory > cgroup.subtree_control && mkdir -p {group} && "
        f"echo {limit} > {group}/memory.max"
    )
    hotplug = Hotplug(subject.run.guest)
    script = (
        f"echo $$ > {group}/cgroup.procs && exec cvm touch --bytes {{}} --step 8M --pause-ms 50"
    )
    running = subject.run.guest.start(["sh", "-c", script.format(96 * MIB)])
    dimm = hotplug.plug_dimm(256 * MIB)
    running.wait(120)
    peak = int(subject.read(f"{group}/memory.peak"))
    kills = subject.sh(f"grep '^oom_kill ' {group}/memory.events").split()[1]
    subject.verify("memcg", 64 * MIB < peak <= limit, f"peak {peak} bytes of {limit}")
    subject.verify("memcg", kills == "0", f"{kills} killed in the group")
    subject.sh(f"rmdir {group}")
    hotplug.unplug_dimm(dimm)


def test_blocks_go_offline_and_online_in_a_loop(subject: Subject) -> None:
    """Offlining accepts (a known defect, see test_hotplug.py); onlining again finds it accepted."""
    hotplug = Hotplug(subject.run.guest)
    dimm = hotplug.plug_dimm(256 * MIB)
    numbers = [block.number for block in hotplug.blocks().within(dimm.address, dimm.size)]
    for _ in range(3):
        for state, wanted in (("offline", "offline"), ("online_movable", "online")):
            refused = set_blocks(subject.run.guest, numbers, state)
            found = {b.state for b in hotplug.blocks().within(dimm.address, dimm.size)}
            detail = f"asked for {state}: {found}, refused {refused}"
            subject.verify("hotplug-blocks", not refused and found == {wanted}, detail)
    accepted = subject.counters().stat("accept_units") - subject.before.stat("accept_units")
    most = (dimm.size // UNIT_SIZE) + 64
    subject.verify("hotplug-twice", accepted <= most, f"{accepted} units, at most {most}")
    hotplug.unplug_dimm(dimm)


def test_virtio_mem_that_the_guest_keeps_stays_and_goes_later(subject: Subject) -> None:
    """The guest tells how far it came, and goes on.

    It is told to keep what is online: left to itself the driver goes on until the guest has nothing
    left to run with, and the OOM killer comes, as it must for a guest made smaller than its use.
    """
    hotplug = Hotplug(subject.run.guest)
    hotplug.resize("vmem0", 512 * MIB)
    subject.sh(f"echo 0 > {UNPLUG_ONLINE}")
    with filled(subject.run.guest, subject.available_bytes() - 256 * MIB, verify=False):
        with pytest.raises(PreconditionError, match=r"reached 512 MiB and not 0 B"):
            hotplug.resize("vmem0", 0, deadline_s=5)
        size = hotplug.device("vmem0").size
        subject.verify("hotplug-works", size == 512 * MIB, f"it has {size} bytes")
        hotplug.resize("vmem0", 512 * MIB)
    subject.sh(f"echo 1 > {UNPLUG_ONLINE}")
    hotplug.resize("vmem0", 0)


@pytest.mark.acceptance(fresh=True)  # what is plugged is used only where little else is free
def test_cycles_leave_nothing_behind(subject: Subject) -> None:
    check_cycles(subject, 3, HotplugCycle(1, 2, 128 * MIB, 256 * MIB, 16 * MIB))


@pytest.mark.tier("soak")
@pytest.mark.parametrize(
    ("dimm_bytes", "virtio_mem_bytes"),
    [pytest.param(128 * MIB, 512 * MIB, id="1GiB"), pytest.param(GIB, 4 * GIB, id="8GiB")],
)
@pytest.mark.acceptance(memory="2G", virtio_mem="4G", fresh=True)
def test_fifty_cycles_leave_nothing_behind(
    subject: Subject, dimm_bytes: int, virtio_mem_bytes: int
) -> None:
    check_cycles(subject, 50, HotplugCycle(1, 4, dimm_bytes, virtio_mem_bytes, 8 * MIB))


def check_cycles(subject: Subject, cycles: int, load: HotplugCycle) -> None:
    units = (load.dimms * load.dimm_bytes + load.virtio_mem_bytes) // UNIT_SIZE
    reports = []
    for cycle in range(cycles):
        (report,) = load.run(subject.run.guest, lambda _: None).reports
        subject.cut()  # the trace buffer has room for the events of one cycle
        reports.append(report)
        before, plugged, used, unplugged = report["readings"]
        added = plugged["units_added"] - before["units_added"]
        # A guard that was accepted before virtio-mem's blocks came is made pending once more.
        detail = f"cycle {cycle}: {added} units added for {units} plugged"
        subject.verify("hotplug-added", units <= added <= units + 2 * MAX_ORDER_PAGES, detail)
        pending = plugged["plugged_pending"]
        detail = f"cycle {cycle}: {pending} of {units} units unaccepted after plugging"
        subject.verify("hotplug-replug", units - 96 <= pending <= units, detail)
        detail = f"cycle {cycle}: {pending} units pending, then {used['plugged_pending']}"
        subject.verify("not-accepted", used["plugged_pending"] < pending, detail)
        left = unplugged["plugged_pending"]
        subject.verify("hotplug-leak", left == 0, f"cycle {cycle}: {left} units left pending")
        rest = unplugged["backend_pending"], before["backend_pending"]
        detail = f"cycle {cycle}: {rest[1]} units pending before, {rest[0]} after"
        subject.verify("hotplug-leak", rest[0] <= rest[1], detail)
    first, last = reports[0]["readings"][0], reports[-1]["readings"][-1]
    fell = first["unaccepted_pages"] - last["unaccepted_pages"]
    most = 128 * MIB // PAGE_SIZE
    detail = f"{fell} pages of boot memory were accepted over {cycles} cycles"
    subject.verify("hotplug-leak", 0 <= fell <= most, detail)
