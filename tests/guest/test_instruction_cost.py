# SPDX-License-Identifier: MIT
"""Under the icount clock guests from one snapshot agree exactly where memory is accepted, so that
one pair of runs tells a kernel that is half a percent dearer from one that is not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import pytest

from harness.base.spec import SnapshotMode
from harness.base.status import Status
from harness.base.units import MIB
from harness.collect.plan import Collect
from harness.compare.runs import check_comparable, compare_runs
from harness.kernel.kernel import Kernel
from harness.record.comparison import Verdict
from harness.record.events import FILE
from harness.record.view import RunView
from harness.run.session import Session
from harness.targets.choose import guest_spec
from harness.workloads.touch import Touch

pytestmark = [pytest.mark.guest, pytest.mark.tier("full")]
COST_NS = 1_300_000


def cost_run(session: Session, kernel: Kernel, cost_ns: int) -> RunView:
    spec = guest_spec(memory="1G", vcpus=1, clock="icount", cost=str(cost_ns))
    prepared = session.prepare(spec, kernel)
    with session.boot(prepared, collect=Collect(hz=0)) as run:
        assert run.guest.boot.restored, run.directory.record["snapshot"]
        run.load(Touch(bytes=480 * MIB))
        outcome = run.conclude()
    assert outcome.status is Status.PASS, outcome.cause
    assert outcome.before.unaccepted_pages > outcome.after.unaccepted_pages
    return RunView.load(run.directory.path)


def accept_trace(run: RunView) -> tuple[dict[str, list[object]], npt.NDArray[np.int64]]:
    """Everything about every accept of the guest's life but the moment it happened at; and how many
    instructions each took."""
    table = pq.read_table(run.path / FILE).drop_columns(["time_ns"])
    assert table.num_rows > 50
    durations = table["duration_ns"].to_numpy()
    columns: dict[str, list[object]] = table.drop_columns(["duration_ns"]).to_pydict()
    return columns, durations


def test_restores_are_identical_and_half_a_percent_is_seen_in_one_pair(
    cvm_session: Session, cvm_kernel: Kernel, tmp_path: Path
) -> None:
    session = Session(store=cvm_session.store, runs=tmp_path, snapshot=SnapshotMode.AUTO)
    first = cost_run(session, cvm_kernel, COST_NS)
    again = cost_run(session, cvm_kernel, COST_NS)
    dearer = cost_run(session, cvm_kernel, COST_NS * 1005 // 1000)

    accepts, durations = accept_trace(first)
    accepts_again, durations_again = accept_trace(again)
    assert accepts == accepts_again
    # A duration is the difference of two readings of a clock that counts in fractions: ±1.
    np.testing.assert_allclose(durations, durations_again, rtol=0, atol=2)
    for reading in ("counters_before", "counters_after"):
        assert first.get(reading, "unaccepted_pages") == again.get(reading, "unaccepted_pages")
    assert first.get("counters_before", "buddy_pages") == again.get(
        "counters_before", "buddy_pages"
    )

    verdicts = {c.metric: c.verdict for c in compare_runs([first], [again], [])}
    assert verdicts["cost.per_call"] is Verdict.EQUIVALENT
    assert Verdict.REGRESSED not in verdicts.values()
    assert check_comparable([first], [dearer], anyway=False) == [
        f"cost model, ns per unit: {COST_NS} → {COST_NS * 1005 // 1000}"
    ]
    found = {c.metric: c for c in compare_runs([first], [dearer], [])}
    assert found["cost.per_accepted_mib"].verdict is Verdict.REGRESSED
    assert found["cost.per_accepted_mib"].effect == pytest.approx(0.005, abs=0.0002)
