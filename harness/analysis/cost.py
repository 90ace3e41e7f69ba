# SPDX-License-Identifier: MIT
"""What acceptance costs in executed instructions, which is guest time under the icount clock
(QEMU's -icount shift=0). Not seen: caches, TLBs, contention between CPUs, and what a hypercall
costs."""

from __future__ import annotations

from harness.base.units import MAX_ORDER_PAGES, MIB, PAGE_SIZE
from harness.record.view import RunView, number

KNOWN_RSD = {
    "cost.per_accepted_mib": 1e-5,
    "cost.per_call": 1e-5,
    "cost.per_touched_page": 2e-4,
    "cost.workload": 2e-4,
}
"""Bounds of one run's relative standard deviation, of guests that have the same boot. Interrupts
are off while memory is accepted, so nothing can come between there; a whole workload is met by some
timers and packets more or less (docs/comparisons.md has the measurements)."""
OF_WORKLOAD = ("cost.per_touched_page", "cost.workload")
"""Costs that contain how much a workload had to accept, which boots differ in."""
MARGIN = 1e-3
"""Relative cost below which two kernels count as equal."""


def per_accepted_mib(run: RunView) -> float | None:
    """In the platform's accept, over all traced events of the guest's life."""
    return _over(_accepting(run), number(run.record, "accepts", "bytes_accepted"), MIB)


def block_share(run: RunView) -> float:
    """What accepting one block of MAX_PAGE_ORDER costs, of the whole workload's cost: so much is a
    workload dearer whose guest's boot left one block more to accept."""
    per_mib, whole = per_accepted_mib(run), workload(run)
    return per_mib * (MAX_ORDER_PAGES * PAGE_SIZE / MIB) / whole if per_mib and whole else 0.0


def per_call(run: RunView) -> float | None:
    """In the platform's accept, of one accept_memory() call on average."""
    return _over(_accepting(run), number(run.record, "accepts", "calls"))


def waiting_per_call(run: RunView) -> float | None:
    """Spinning for another CPU's overlapping range, of one call on average."""
    waited = number(run.record, "accepts", "wait", "total_ns") if counted(run) else None
    return _over(waited, number(run.record, "accepts", "calls"))


def per_touched_page(run: RunView) -> float | None:
    """The workload's own over the pages it made resident: fault, accept, zeroing, the rest."""
    return _over(workload(run), number(run.workload, "touched_bytes"), PAGE_SIZE)


def workload(run: RunView) -> float | None:
    """All that the workload's workers executed, in user and kernel mode, by the CPU time of its
    threads."""
    return number(run.workload, "cpu_ns") if counted(run) else None


def counted(run: RunView) -> bool:
    return bool(run.get("spec", "clock") == "icount")


def _accepting(run: RunView) -> float | None:
    return number(run.record, "accepts", "accept", "total_ns") if counted(run) else None


def _over(amount: float | None, by: float | None, unit: int = 1) -> float | None:
    return None if amount is None or not by else amount / (by / unit)
