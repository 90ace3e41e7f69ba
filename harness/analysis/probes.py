# SPDX-License-Identifier: MIT
"""Accept events put together from probe hits (harness/collect/probes.py), and how they compare with
the trace event. Hits of one task nest; the idle tasks share pid 0, and are told apart by CPU."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from harness.record.check import Check, check
from harness.record.counters import Counters
from harness.record.events import Events

PROBES_FILE = "probes.parquet"
"""Like events.parquet, next to it: what the probes saw of a run that used both."""
CALL, RETURN, PLATFORM_CALL, PLATFORM_RETURN = range(4)


@dataclass(frozen=True)
class Hit:
    kind: int
    time_ns: int
    cpu: int
    pid: int
    first: int
    """Physical start for calls; the return address for a return of accept_memory()."""
    second: int
    """Physical end for a platform call; else 0."""


@dataclass
class _Open:
    since_ns: int
    ranges: list[list[int]] = field(default_factory=list)


class ProbedAccept(NamedTuple):
    """One range that a call handed to the platform."""

    returned_ns: int
    time_ns: int
    cpu: int
    pid: int
    start: int
    end: int
    first: bool
    duration_ns: int
    wait_ns: int
    """All the time from the call to the platform's work; 0 unless `first`."""
    caller: int


@dataclass(frozen=True)
class Paired:
    """The accept events that hits stand for."""

    events: tuple[ProbedAccept, ...]
    calls: int
    """Calls of accept_memory(), those included that found nothing to accept."""
    unpaired: int
    """Hits whose other half is missing: begun before the probes were on, or lost."""


def pair(hits: Iterable[Hit], since_ns: int, until_ns: int) -> Paired:
    """Accepts from hits, ascending in time.

    From `since_ns` to `until_ns` all probes were on; outside, halves are not missed. What a task
    has the platform accept outside a call is none of acceptance: memory that is converted back to
    private (6.12, arch/x86/coco/tdx/tdx.c: tdx_enc_status_changed()).
    """
    stacks: dict[int, list[_Open]] = {}
    converting: dict[int, int] = {}
    events: list[ProbedAccept] = []
    calls = unpaired = 0
    for hit in hits:
        inside = since_ns <= hit.time_ns <= until_ns
        task = hit.pid if hit.pid else -1 - hit.cpu
        stack = stacks.setdefault(task, [])
        if hit.kind == CALL:
            calls += 1
            stack.append(_Open(hit.time_ns))
        elif not stack and hit.kind == PLATFORM_CALL:
            unpaired += since_ns <= converting.get(task, -1) <= until_ns
            converting[task] = hit.time_ns
        elif not stack and hit.kind == PLATFORM_RETURN and task in converting:
            del converting[task]
        elif not stack:
            unpaired += inside
        elif hit.kind == PLATFORM_CALL:
            stack[-1].ranges.append([hit.first, hit.second, hit.time_ns, -1])
        elif hit.kind == PLATFORM_RETURN:
            if stack[-1].ranges and stack[-1].ranges[-1][3] < 0:
                stack[-1].ranges[-1][3] = hit.time_ns
            else:
                unpaired += inside
        else:
            found, broken = _call_events(stack.pop(), hit)
            events += found
            unpaired += broken and inside
    left = [call for stack in stacks.values() for call in stack]
    unpaired += sum(since_ns <= call.since_ns <= until_ns for call in left)
    unpaired += sum(since_ns <= time_ns <= until_ns for time_ns in converting.values())
    return Paired(tuple(events), calls, unpaired)


def _call_events(call: _Open, back: Hit) -> tuple[list[ProbedAccept], bool]:
    if any(until < 0 for *_, until in call.ranges):
        return [], True
    return [
        ProbedAccept(
            returned_ns=back.time_ns,
            time_ns=until,
            cpu=back.cpu,
            pid=back.pid,
            start=start,
            end=end,
            first=not number,
            duration_ns=until - since,
            wait_ns=since - call.since_ns if not number else 0,
            caller=back.first,
        )
        for number, (start, end, since, until) in enumerate(call.ranges)
    ], False


def sources_agree(probes: Events, events: Events) -> Check:
    """Range by range while the probes were on; count and bytes follow from that."""
    seen = [
        _ranges(some, probes.facts.since_ns, probes.facts.until_ns) for some in (probes, events)
    ]
    counts = [len(ranges) for ranges in seen]
    sizes = [int((ranges[:, 1] - ranges[:, 0]).sum()) for ranges in seen]
    _, which = np.unique(np.concatenate(seen), axis=0, return_inverse=True)
    balance = np.bincount(which.reshape(-1)[: counts[0]], minlength=len(which))
    balance -= np.bincount(which.reshape(-1)[counts[0] :], minlength=len(which))
    differ = int(np.abs(balance).sum())
    detail = (
        f"{counts[0]} accepts of {sizes[0]} bytes by probes, {counts[1]} of {sizes[1]} by the "
        f"event; {differ} ranges seen by one alone"
    )
    void = "" if all(counts) else "nothing to compare"
    if probes.facts.lost or events.facts.lost:
        void = "void, events were lost"
    return check("probes and trace event agree", not differ, detail, "conservation", void=void)


def _ranges(source: Events, since_ns: int, until_ns: int) -> npt.NDArray[np.uint64]:
    """Start and end of every accept in that time; shape (accepts, 2)."""
    parts = [np.zeros((0, 2), np.uint64)]
    for batch in source.batches("time_ns", "start_phys", "end_phys"):
        inside = (batch["time_ns"] >= since_ns) & (batch["time_ns"] <= until_ns)
        some = inside & (batch["end_phys"] > batch["start_phys"])
        parts.append(np.column_stack([batch["start_phys"][some], batch["end_phys"][some]]))
    return np.concatenate(parts)


def probes_account_for_all(events: Events, before: Counters, after: Counters) -> Check:
    """Since the reading `before`, which must have been made with the probes on."""
    units = 0
    for batch in events.batches("time_ns", "units"):
        units += int(batch["units"][batch["time_ns"] >= before.monotonic_ns].sum())
    accepted = after.stat("accept_units") - before.stat("accept_units")
    detail = f"units: {units} by probes, {accepted} by the back end; {events.facts.lost} hits lost"
    name = "probes account for every unit accepted since they were on"
    void = "" if accepted or units else "nothing was accepted"
    if events.facts.lost:
        void = "void, hits were lost"
    return check(name, units == accepted, detail, "conservation", void=void)
