# SPDX-License-Identifier: MIT
"""Unaccepted memory over time, from the sampler, and what the sampler itself cost."""

from dataclasses import dataclass

import numpy as np

from harness.base.status import Status
from harness.base.units import GIB, MAX_ORDER_PAGES, PAGE_SIZE, PAGES_PER_UNIT
from harness.record.check import Check, check
from harness.record.samples import Samples

UNACCEPTED = "vmstat.nr_unaccepted"
_STALLS = ("allocstall", "pgscan_direct", "compact_stall", "compact_fail", "thp_fault_fallback")
_RATE_SPAN_NS = 100_000_000


@dataclass(frozen=True)
class SampleFigures:
    samples: int
    missed: int
    """Ticks at which no reading could be made."""
    complete: bool
    duration_ns: int
    first_pages: int
    """nr_unaccepted at the first sample; -1: the kernel does not count it."""
    last_pages: int
    steepest_gib_per_s: float | None
    """The fastest fall over any tenth of a second."""
    grew: dict[str, int]
    """How much the counters of reclaim, compaction and THP fallback grew, where they did."""
    read_p50_ns: float
    read_max_ns: float
    cpu_share: float | None
    """CPU time of the sampler over the duration: its own overhead, of one vCPU."""


def sample_figures(samples: Samples) -> SampleFigures | None:
    """None where there is not a single sample."""
    if not len(samples.values):
        return None
    time_ns, read_ns = samples.column("monotonic_ns"), samples.column("read_ns")
    duration = int(time_ns[-1] - time_ns[0])
    pages = samples.column(UNACCEPTED) if UNACCEPTED in samples.names else np.array([-1])
    grew = {}
    for name in samples.names:
        if name.removeprefix("vmstat.").startswith(_STALLS):
            growth = int(samples.column(name)[-1] - samples.column(name)[0])
            if growth:
                grew[name.removeprefix("vmstat.")] = growth
    return SampleFigures(
        samples=len(samples.values),
        missed=samples.missed,
        complete=samples.complete,
        duration_ns=duration,
        first_pages=int(pages[0]),
        last_pages=int(pages[-1]),
        steepest_gib_per_s=_steepest(samples) if len(pages) > 1 else None,
        grew=grew,
        read_p50_ns=float(np.median(read_ns)),
        read_max_ns=float(read_ns.max()),
        cpu_share=samples.cpu_ns / duration if samples.complete and duration > 0 else None,
    )


def _steepest(samples: Samples) -> float | None:
    time_ns, pages = samples.column("monotonic_ns"), samples.column(UNACCEPTED)
    later = np.searchsorted(time_ns, time_ns + _RATE_SPAN_NS)
    inside = later < len(time_ns)
    if not inside.any():
        return None
    first, last = np.nonzero(inside)[0], later[inside]
    fell = (pages[first] - pages[last]) * PAGE_SIZE / GIB
    return float((fell / ((time_ns[last] - time_ns[first]) / 1e9)).max())


def samples_never_rise(samples: Samples, added_units: int = 0) -> Check:
    """From sample to sample, but by units that were hot-added meanwhile, and in whole blocks."""
    name = "nr_unaccepted never rose from sample to sample"
    if UNACCEPTED not in samples.names or len(samples.values) < 2:
        return Check(name, Status.ERROR, f"{len(samples.values)} samples of it: nothing to compare")
    pages = samples.column(UNACCEPTED)
    steps = np.diff(pages)
    risen = int((steps > 0).sum())
    allowed = added_units * PAGES_PER_UNIT
    holds = int(steps[steps > 0].sum()) <= allowed
    uneven = int((pages % MAX_ORDER_PAGES != 0).sum())
    detail = (
        f"{len(pages)} samples from {pages[0]} to {pages[-1]} pages: {risen} rises, "
        f"{uneven} not in whole blocks" + f", {added_units} units hot-added" * bool(added_units)
    )
    return check(name, holds and not uneven, detail, "counters" if holds else "rises")
