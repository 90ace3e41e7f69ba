# SPDX-License-Identifier: MIT
"""Boot: sizes, vCPUs, routes, nodes, early users of memory. Each boots a guest of its own."""

import pytest

from harness.analysis import invariants
from harness.analysis.evidence import Evidence, Scope
from harness.base.units import GIB, MAX_ORDER_PAGES, MIB, PAGE_SIZE, UNIT_SIZE
from harness.suite.subject import Subject
from harness.targets.confidential import LEAST_MEMORY, LOW, LOW_UNDER_TCG
from harness.targets.registry import target_for

pytestmark = [pytest.mark.guest, pytest.mark.acceptance(fresh=True, unaccepted="16M")]
full = pytest.mark.tier("full")
soak = pytest.mark.tier("soak")
KNOWN_UNITS = 700
"""What 6.12 and 7.3 accept too early: a block an allocation until watermarks exist (defect A)."""
KNOWN_UNITS_PER_VCPU = 80
MEMORY_PER_KNOWN_UNIT = 96 * MIB
"""Page structs take 1/64 of memory, a unit for each 128 MiB; hash tables grow with it as well. Of
63000M 7.3 accepted 1,328 to 1,377 units, with this 1,516 are known."""
WITH_KASAN = 1.75
"""Times as much, beside the shadow: redzones make objects larger. Of 72184M such a kernel (6.12)
accepted 6,784 units, 4,591 of them for the shadow; with this 7,411 are known."""
RECLAIM = ("pageoutrun", "allocstall_", "pgscan_", "pgsteal_")
"""What /proc/vmstat counts of reclaim; pageoutrun: kswapd was at work (mm/vmscan.c)."""


def judge(subject: Subject) -> None:
    """What holds for every lazy boot, and what every boot must leave."""
    spec, before = subject.run.spec, subject.before
    taken = subject.run.overhead.taken(spec.memory)
    more = WITH_KASAN if taken else 1
    at_init = subject.run.guest.boot.init.nr_unaccepted_pages * PAGE_SIZE
    # Boot needs some memory whatever the guest's size is, and the page structs of all of it.
    early = round((2000 + 80 * spec.vcpus) * more) * MIB
    least = spec.memory - spec.memory // 32 - 16 * MIB - early - taken
    if not subject.has("emulated"):  # OVMF accepts all that lies below 4 GiB
        small = target_for(spec.target).platform_emulated(spec) and spec.memory < LEAST_MEMORY
        least -= LOW_UNDER_TCG if small else LOW
    detail = f"{at_init // MIB} of {spec.memory // MIB} MiB unaccepted at init"
    subject.verify("boot-accepts-all", at_init >= max(least, 16 * MIB), detail)
    if before.emulation:
        units = before.stat("units_before_init")
        known = KNOWN_UNITS + KNOWN_UNITS_PER_VCPU * spec.vcpus
        known += spec.memory // MEMORY_PER_KNOWN_UNIT
        known = round(known * more) + taken // UNIT_SIZE
        detail = f"{units} units before PID 1, known {known} with {spec.vcpus} vCPUs"
        subject.verify("boot-regression", units <= known, detail)


@pytest.mark.parametrize(
    ("memory", "vcpus"),
    [
        pytest.param("640M", 1, marks=pytest.mark.acceptance(memory="640M", vcpus=1)),
        pytest.param("5002M", 3, marks=pytest.mark.acceptance(memory="5002M", vcpus=3)),
        *(
            pytest.param(m, v, marks=[full, pytest.mark.acceptance(memory=m, vcpus=v)])
            for m, v in [("768M", 2), ("2700M", 2), ("4G", 4), ("16G", 8), ("63000M", 2)]
        ),
        *(
            pytest.param(m, v, marks=[soak, pytest.mark.acceptance(memory=m, vcpus=v)])
            for m, v in [("6144M", 41), ("8192M", 71), ("256G", 2), ("32G", 16)]
        ),
    ],
)
def test_a_guest_of_any_size_leaves_memory_unaccepted(
    subject: Subject, memory: str, vcpus: int
) -> None:
    judge(subject)
    size = min(96 * MIB, subject.before.free_pages * PAGE_SIZE // 4)
    touched = subject.touch(size // MIB * MIB).touched_bytes
    subject.verify("touch", touched >= size // MIB * MIB, f"{touched} bytes touched after boot")


@pytest.mark.acceptance(memory="2G", vcpus=8, cost="tdx", features=("emulation-stats",))
def test_boot_accepts_no_more_than_it_uses(subject: Subject) -> None:
    run = subject.run
    evidence = Evidence(after=subject.before, vcpus=run.spec.vcpus, overhead=run.overhead)
    subject.checks += invariants.judge(evidence, Scope.BOOT)


@pytest.mark.acceptance(route="efi", memory="2G", features=("emulated",))
def test_the_efi_stub_hands_its_table_over(subject: Subject) -> None:
    judge(subject)
    before = subject.soak()
    subject.touch((before.free_pages - before.unaccepted_pages) * PAGE_SIZE + 32 * MIB)
    subject.must_have_accepted(before, 28 * MIB)


@full
@pytest.mark.parametrize(
    "memory",
    [pytest.param(m, marks=pytest.mark.acceptance(memory=m)) for m in ("700M", "5002M", "63000M")],
)
@pytest.mark.acceptance(route="efi", features=("emulated",))
def test_the_efi_route_at_odd_sizes(subject: Subject, memory: str) -> None:
    # 63000M makes a bitmap that ends in the last bytes of a page (fix 0862438c9048).
    judge(subject)
    subject.touch(128 * MIB)


@pytest.mark.acceptance(memory="1G", accept="eager")
def test_eager_accepts_all_before_init(subject: Subject) -> None:
    at_init = subject.run.guest.boot.init.nr_unaccepted_pages
    subject.verify("eager", at_init == 0, f"{at_init} pages unaccepted at init")
    if subject.before.emulation:
        pending = subject.before.stat("backend_pending")
        marked = subject.before.stat("units_marked")
        subject.require(marked > 0, "nothing was unaccepted to begin with")
        subject.verify("eager", pending == 0, f"{pending} of {marked} units are still pending")
    elif subject.run.platform:
        info = subject.run.platform.info()
        subject.require(info.at_launch.pending > 0, "nothing was unaccepted to begin with")
        detail = f"{info.pages.pending} of {info.at_launch.pending} pages are still pending"
        subject.verify("eager", info.pages.pending == 0, detail)


@pytest.mark.acceptance(memory="1G", accept="eager", route="efi", features=("emulated",))
@full
def test_eager_accepts_all_before_init_on_the_efi_route(subject: Subject) -> None:
    pending = subject.before.stat("table_pending")
    subject.require(subject.before.stat("units_marked") > 0, "nothing was unaccepted")
    subject.verify("eager", pending == 0, f"{pending} units are still pending")


@pytest.mark.acceptance(memory="3G", vcpus=3, numa_nodes=3, unaccepted="512M")
def test_every_node_keeps_memory_unaccepted_and_gives_its_own(subject: Subject) -> None:
    nodes = subject.before.node_unaccepted_kib
    subject.verify("numa", len(nodes) == 3 and all(nodes.values()), f"KiB by node: {dict(nodes)}")
    if subject.has("hook"):
        soaked = subject.soak()
        nodes = soaked.node_unaccepted_kib
        # What firmware has accepted of the node may be left: it was taken on another.
        zones = [zone for zone in soaked.zones if zone.node == 1]
        spare = sum(zone.free_pages - zone.unaccepted_pages for zone in zones)
        blocks = spare // MAX_ORDER_PAGES + 64
        subject.hook("alloc", node=1, order=10, count=blocks, gfp="noretry")
        subject.hook("free")
        after = subject.counters().node_unaccepted_kib
        fell = {node: nodes[node] - after.get(node, 0) for node in nodes}
        subject.verify("numa", fell[1] > 0, f"KiB accepted by node, 1 was asked: {fell}")


@full
@pytest.mark.acceptance(memory="3G", vcpus=2, numa_nodes=2, route="efi", features=("emulated",))
def test_nodes_on_the_efi_route(subject: Subject) -> None:
    nodes = subject.before.node_unaccepted_kib
    subject.verify("numa", len(nodes) == 2 and all(nodes.values()), f"KiB by node: {dict(nodes)}")


@pytest.mark.acceptance(
    memory="1G", append=("unaccepted_test_early=10:24",), features=("hook-early",)
)
def test_early_allocations_are_served_before_there_are_watermarks(subject: Subject) -> None:
    status = subject.hook("status")
    subject.require(status["early_wanted"] == 24, "the kernel did not see the early request")
    detail = f"{status['early_got']} of 24 blocks of 4 MiB came, {status['early_failed']} failed"
    subject.verify("early-allocation", status["early_failed"] == 0, detail)


@full
@pytest.mark.acceptance(
    memory="16G", vcpus=1, append=("unaccepted_test_early=10:300",), features=("hook-early",)
)
def test_nothing_is_reclaimed_while_the_guest_boots(subject: Subject) -> None:
    # Early users have taken what was accepted, so that kswapd starts with little of it and with
    # all of the rest unaccepted: that is as good as free, and the node is balanced.
    status = subject.hook("status")
    subject.require(status["early_got"] == 300, "the kernel did not serve the early request")
    booted = subject.before
    subject.require(booted.unaccepted_pages > 0, "nothing is left that could be accepted")
    ran = {name: count for name, count in booted.vmstat.items() if name.startswith(RECLAIM)}
    subject.require("pageoutrun" in ran, "/proc/vmstat does not say how often kswapd ran")
    events = {name: count for name, count in ran.items() if count}
    detail = f"{booted.unaccepted_pages} pages unaccepted; {events or 'no reclaim'}"
    subject.verify("reclaim", not events, detail)


@full
@pytest.mark.acceptance(memory="1G", append=("memtest=1",))
def test_memtest_leaves_unaccepted_memory_alone(subject: Subject) -> None:
    illegal = subject.illegal_accesses()
    subject.verify("illegal-access", illegal == 0, f"{illegal} illegal accesses during boot")
    judge(subject)


@full
@pytest.mark.acceptance(memory="2G", append=("crashkernel=256M",))
def test_a_crash_kernels_memory_is_reserved(subject: Subject) -> None:
    size = int(subject.read("/sys/kernel/kexec_crash_size"))
    subject.verify("crashkernel", size >= 256 * MIB, f"{size // MIB} MiB reserved")
    judge(subject)


@full
@pytest.mark.acceptance(memory="8G", vcpus=4, unaccepted_start="6G", features=("emulated",))
def test_only_the_upper_part_is_unaccepted(subject: Subject) -> None:
    lowest = min(run.start for run in subject.pending())
    subject.verify("table", lowest >= 6 * GIB, f"lowest pending address {lowest:#x}")
