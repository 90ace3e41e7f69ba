# SPDX-License-Identifier: MIT
"""A kernel that is measured without a base, against the figures kept in git."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from harness.base.status import HarnessError, Status
from harness.compare.baselines import (
    baseline_for,
    baseline_of,
    compare_with,
    kernel_config,
    load_all,
)
from harness.jobs.nightly.measure import judge_comparisons, metrics_of_cell
from harness.jobs.nightly.plan import Cell
from harness.record.comparison import Criteria
from harness.record.view import RunView


def against_baseline(cell: Cell, runs: Sequence[Path], directory: Path) -> tuple[Status, str]:
    """Status and cause of the cell. DONE, saying why, where there is nothing to compare with."""
    assert cell.workload
    if not directory.is_dir():
        return Status.DONE, f"measured; there are no baselines in {directory}"
    try:
        views = [RunView.load(run) for run in runs]
        now = baseline_of(views, kernel_config(views[0]))
        known = [entry for _, entry in load_all(directory)]
        chosen = baseline_for(now, known, anyway=False)
        criteria = Criteria(margin=cell.workload.margin_percent / 100)
        status, cause = judge_comparisons(
            compare_with(chosen, now, metrics_of_cell(cell), criteria)
        )
    except HarnessError as error:
        return Status.DONE, f"measured, not compared: {error.cause}"
    return status, f"against the baseline of {chosen.kernel}: {cause}"
