# SPDX-License-Identifier: MIT
"""How long the host kept a process waiting for a processor."""

from __future__ import annotations

import contextlib
from pathlib import Path


def run_delays(pid: int) -> dict[int, int]:
    """Thread -> ns it was runnable and did not run, since it began.

    The second field of /proc/PID/task/TID/schedstat (Documentation/scheduler/sched-stats.rst).
    Empty where the process is gone or the host does not tell.
    """
    found = {}
    with contextlib.suppress(OSError):
        for task in (Path("/proc") / str(pid) / "task").iterdir():
            with contextlib.suppress(OSError, ValueError, IndexError):
                found[int(task.name)] = int((task / "schedstat").read_text().split()[1])
    return found


def longest_delay(before: dict[int, int], after: dict[int, int]) -> int:
    """Between two readings: ns that the most delayed thread waited."""
    return max((ns - before.get(thread, 0) for thread, ns in after.items()), default=0)
