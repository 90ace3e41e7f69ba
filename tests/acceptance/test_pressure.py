# SPDX-License-Identifier: MIT
"""Memory pressure: nothing is reclaimed and nobody killed while unaccepted memory is left."""

import pytest

from harness.analysis.pressure import moved
from harness.base.units import MAX_ORDER_PAGES, MIB, PAGE_SIZE
from harness.record.console import Kind
from harness.suite.subject import Subject
from tests.support.guest_marks import MAIN

pytestmark = pytest.mark.guest
SMALL = pytest.mark.acceptance(memory="768M", vcpus=2, unaccepted="64M")
CGROUP = "/tmp/cgroup"


@SMALL
def test_almost_all_memory_can_be_used_before_anything_is_reclaimed(subject: Subject) -> None:
    # In steps, so that each allocation meets the watermark that the one before has left.
    before = subject.before
    script = f"cvm touch --bytes {{}} --step {4 * MIB}"
    size = (before.free_pages * PAGE_SIZE - 96 * MIB) // MIB * MIB
    subject.sh(script.format(size), deadline_s=180)
    after = subject.counters()
    fell = before.unaccepted_pages - after.unaccepted_pages
    subject.require(fell > 0, "nothing was accepted")
    rises = moved(before, after, ("allocstall_", "pgscan_", "pgsteal_", "oom_kill"))
    detail = f"{size // MIB} MiB touched, {after.unaccepted_pages} pages unaccepted; {rises}"
    subject.verify("reclaim", not rises, detail)


@SMALL
@pytest.mark.acceptance(fresh=True, spoils=True, splats=("oom",), reclaim=True)
def test_the_oom_killer_comes_when_all_is_accepted_and_not_before(subject: Subject) -> None:
    size = subject.before.mem_total_kib * 1024 * 2
    command = f"cvm touch --bytes {size // MIB * MIB} --threads 2"
    done = subject.run.guest.run(command, check=False, deadline_s=240)
    subject.require(done.exit_status != 0, "twice the memory could be touched")
    kills = [splat for splat in subject.run.guest.splats if splat.kind is Kind.OOM]
    subject.verify("no-oom", bool(kills), f"{len(kills)} OOM kills on the console")
    after = subject.counters()
    detail = f"{after.unaccepted_pages} pages were unaccepted when a task was killed"
    subject.verify("early-oom", after.unaccepted_pages == 0, detail)


# One vCPU: the first group turns static keys on, and TCG can lose a race with that (docs/suite.md).
@pytest.mark.acceptance(memory="2560M", vcpus=1)
@pytest.mark.acceptance(
    features=("memcg", "hook"), splats=("oom",), reclaim=True, unaccepted="256M"
)
def test_a_memory_cgroup_at_its_limit_accepts_no_more_than_the_limit(subject: Subject) -> None:
    before = subject.soak()
    limit = 32 * MIB
    script = (
        f"mkdir -p {CGROUP} && (mountpoint -q {CGROUP} || mount -t cgroup2 none {CGROUP}) && "
        f"echo +memory > {CGROUP}/cgroup.subtree_control && mkdir -p {CGROUP}/small && "
        f"echo {limit} > {CGROUP}/small/memory.max && "
        f"(echo 0 > {CGROUP}/small/cgroup.procs && exec cvm touch --bytes {4 * limit}); "
        f"cat {CGROUP}/small/memory.events; rmdir {CGROUP}/small"
    )
    events = subject.sh(script, check=False, deadline_s=120)
    killed = "oom_kill 0" not in events and "oom_kill" in events
    subject.verify("memcg", killed, f"the group's events: {' '.join(events.split()[-12:])}")
    after = subject.counters()
    fell = (before.unaccepted_pages - after.unaccepted_pages) * PAGE_SIZE
    spare = (before.free_pages - before.unaccepted_pages) * PAGE_SIZE
    detail = f"{fell // MIB} MiB accepted for a group of {limit // MIB} MiB, {spare // MIB} spare"
    allowed = limit + 16 * MAX_ORDER_PAGES * PAGE_SIZE
    subject.verify("over-accepted", fell <= allowed, detail)


@MAIN
@pytest.mark.acceptance(features=("hook",), unaccepted="256M")
def test_kernel_memory_wakes_no_reclaim(subject: Subject) -> None:
    before = subject.soak()
    figures = subject.hook("alloc", order=2, count=96 * MIB // (PAGE_SIZE << 2), cpus=2)
    subject.hook("free")
    subject.must_have_accepted(before, 64 * MIB)
    rises = moved(before, subject.counters(), ("pgscan_", "pgsteal_", "allocstall_", "kswapd_"))
    subject.verify("reclaim", not rises, f"{figures['done']} allocations; {rises or 'no reclaim'}")


@MAIN
@pytest.mark.acceptance(features=("compaction",), unaccepted="128M", reclaim=True)
def test_dropping_caches_and_compacting_leave_unaccepted_memory_alone(subject: Subject) -> None:
    before = subject.counters()
    subject.sh("echo 3 > /proc/sys/vm/drop_caches; echo 1 > /proc/sys/vm/compact_memory")
    fell = subject.accepted_since(before)
    detail = f"{fell} pages accepted by dropping caches and compacting"
    subject.verify("over-accepted", fell <= 4 * MAX_ORDER_PAGES, detail)
