# SPDX-License-Identifier: MIT
"""Every workload does in a real guest what it says, and its report can be believed."""

import pytest

from harness.analysis.workload import operations
from harness.base.status import PreconditionError, Status
from harness.base.units import GIB, MIB, PAGE_SIZE
from harness.run.run import Run
from harness.suite.plugin.fixtures import Boot
from harness.workloads.base import Workload
from harness.workloads.bound import MemcgLimited, NearOom, NumaBound
from harness.workloads.programs import (
    Atomic,
    Churn,
    Drain,
    Fill,
    ForkStorm,
    Fragment,
    Mlock,
    Slab,
)
from harness.workloads.stress_ng import StressNg
from harness.workloads.touch import ParallelTouch, Steps, Touch

pytestmark = pytest.mark.guest

LOADS: tuple[Workload, ...] = (
    Steps(bytes=32 * MIB, step=8 * MIB, pause_ms=10),
    ParallelTouch(bytes=64 * MIB, threads=4, pin=True, verify=True),
    Touch(bytes=32 * MIB, page="thp", pattern="random"),
    Touch(bytes=16 * MIB, page="hugetlb"),
    Fill(bytes=64 * MIB, workers=2),
    Fill(bytes=64 * MIB, kind="page-cache"),
    Slab(files=3000, workers=2),
    ForkStorm(forks=40, bytes=MIB, alive=8),
    Atomic(datagrams=300, listeners=32),
    Mlock(bytes=64 * MIB),
    MemcgLimited(limit=48 * MIB, bytes=128 * MIB),
    NumaBound(bytes=64 * MIB),
    Churn(seconds=1),
    Churn(seconds=1, map=True),
    StressNg(arguments=("--vm", "1", "--vm-bytes", "64M", "--timeout", "2")),
    Fragment(bytes=256 * MIB, thp_bytes=64 * MIB),
)


def test_all_workloads_run_and_their_operations_add_up(boot: Boot) -> None:
    with boot(memory=2 * GIB, numa_nodes=2, layers=("stress-ng",)) as run:
        for load in LOADS:
            result = run.load(load)
            assert result.name == load.name
            found = operations(result.reports)
            if load.name == "stress-ng":
                assert found is None
                continue
            assert found is not None, load
            assert found.count > 0, load
            assert result.touched_bytes > 0, load
            assert found.latency is not None
            assert sum(worker.operations for worker in found.workers) == found.count, load
        outcome = run.conclude()
    assert outcome.status is Status.PASS, outcome.cause
    names = [load.name for load in outcome.workloads]
    assert names == [load.name for load in LOADS]
    assert outcome.samples is not None
    assert outcome.samples.complete


def test_a_guest_larger_than_its_host_is_drained_and_every_event_accounts(boot: Boot) -> None:
    """10,000 accept events and more: events = table = back end, to the unit, with none lost.

    Some is left, so that there are guard units to explain.
    """
    with boot(memory=64 * GIB, vcpus=4) as run:
        run.load(Drain(workers=4, leave=8 * GIB))
        outcome = run.conclude()
    assert outcome.status is Status.PASS, outcome.cause
    assert outcome.lost_events == 0
    assert outcome.accepts is not None
    assert outcome.accepts.summary.events >= 10_000
    assert 7 * GIB < outcome.after.unaccepted_pages * PAGE_SIZE <= 8 * GIB
    assert outcome.after.stat("table_pending") == outcome.after.stat("backend_pending")
    accounted = outcome.accepts.summary.units + outcome.after.stat("untraced_units")
    assert accounted == outcome.after.stat("accept_units")
    assert {check.name for check in outcome.checks} >= {
        "trace accounts for every accepted unit",
        "guard units explain nr_unaccepted to the unit",
    }


def test_to_within_a_few_mib_of_everything_without_an_oom_kill(boot: Boot) -> None:
    # A slow boot of 512 MiB leaves nothing unaccepted on 6.12 (docs/findings/early-acceptance.md).
    with boot(memory=768 * MIB) as run:
        result = run.load(NearOom(margin=16 * MIB))
        outcome = run.conclude()
    assert outcome.status is Status.PASS, outcome.cause
    (report,) = result.reports
    assert report["left_kib"] <= 18 << 10
    assert outcome.after.unaccepted_pages * PAGE_SIZE < 64 * MIB


def test_what_a_guest_has_not_got_is_an_error_not_a_pass(guest: Run) -> None:
    with pytest.raises(PreconditionError, match="1 NUMA nodes"):
        guest.load(NumaBound(bytes=64 * MIB))
    with pytest.raises(PreconditionError, match="not in the guest's image"):
        guest.load(StressNg(arguments=("--vm", "1")))
