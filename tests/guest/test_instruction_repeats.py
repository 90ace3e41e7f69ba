# SPDX-License-Identifier: MIT
"""Under the icount clock a workload costs the same in guests from one snapshot, on every platform:
nothing else wakes up beside it, and what does run is not booked to it, nor it to that."""

from __future__ import annotations

import statistics
from pathlib import Path

import pytest

from harness.base.spec import GuestSpec, SnapshotMode
from harness.base.status import Status
from harness.base.units import MIB
from harness.kernel.kernel import Kernel
from harness.run.session import Session
from harness.targets.choose import guest_spec
from harness.workloads.touch import Touch

pytestmark = [pytest.mark.guest, pytest.mark.tier("full")]

RUNS = 3
PLATFORMS = ("tdx", "snp")
BEAT_NS = 4_000_000_000
"""Of guest time: workloads begin right after one (guest-images/minimal/src/still.c)."""


@pytest.fixture(params=("emulated", *PLATFORMS))
def spec(request: pytest.FixtureRequest, cvm_spec: GuestSpec) -> GuestSpec:
    """A guest of the command line's platform; of each one, if that is the kernel's own."""
    asked = cvm_spec.target.value
    if asked in PLATFORMS and asked != request.param:
        pytest.skip(f"the command line asks for {asked}")
    emulated = request.param == "emulated"
    return guest_spec(
        target=request.param,
        accel="tcg",
        clock="icount",
        memory="1G" if emulated else "1536M",
        vcpus=1,
        cost="tdx" if emulated else request.param,
    )


def test_a_workload_costs_the_same_to_a_hundredth_of_a_percent(
    cvm_session: Session, spec: GuestSpec, kernel: Kernel, tmp_path: Path
) -> None:
    session = Session(store=cvm_session.store, runs=tmp_path, snapshot=SnapshotMode.AUTO)
    prepared = session.prepare(spec, kernel)
    # What boot has accepted, and half as much again that is accepted meanwhile.
    load = Touch(bytes=480 * MIB)
    costs, accepted = [], set()
    for _ in range(RUNS):
        with session.boot(prepared) as run:
            assert run.guest.boot.restored, run.directory.record["snapshot"]
            result = run.load(load)
            outcome = run.conclude()
        assert outcome.status is Status.PASS, outcome.cause
        assert result.cpu_ns is not None
        costs.append(result.cpu_ns)
        accepted.add(outcome.before.unaccepted_pages - outcome.after.unaccepted_pages)
        assert result.reports[0]["start_monotonic_ns"] % BEAT_NS < BEAT_NS / 100
    assert len(accepted) == 1, accepted
    assert min(accepted) > 0
    assert max(costs) - min(costs) <= 1e-4 * statistics.median(costs), costs
