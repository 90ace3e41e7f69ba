# SPDX-License-Identifier: MIT
"""The night's bound on disk: what passed gives up its bulk first, then cells are not started."""

from __future__ import annotations

import shutil
from pathlib import Path

from harness.base.status import HostError, Status
from harness.base.store import tree_size
from harness.base.units import format_size
from harness.jobs.nightly.plan_file import Limits
from harness.record.journal import Journal


def check_disk(directory: Path, limits: Limits, journal: Journal) -> None:
    """Make room if the bounds are reached. Raises HostError where that is not enough."""
    if _complaint(directory, limits):
        for event in list(journal.of("suite", status=Status.PASS.value)):
            runs = directory / event["place"] / "runs"
            if runs.is_dir():
                shutil.rmtree(runs, ignore_errors=True)
                if not _complaint(directory, limits):
                    return
    complaint = _complaint(directory, limits)
    if complaint:
        raise HostError(complaint, hint="free some, or raise disk or free_disk in [limits]")


def _complaint(directory: Path, limits: Limits) -> str:
    free = shutil.disk_usage(directory).free
    if free < limits.free_disk:
        return (
            f"the disk is full: {format_size(free)} free where {directory} is, and "
            f"{format_size(limits.free_disk)} are to stay free"
        )
    used = tree_size(directory)
    if used > limits.disk:
        return f"the night takes {format_size(used)}, and may take {format_size(limits.disk)}"
    return ""
