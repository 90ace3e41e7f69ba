# SPDX-License-Identifier: MIT
"""Conservation across witnesses that count without each other: the emulated platform, its event
stream, and the guest's kernel. They have to agree to the page."""

from collections.abc import Sequence

import numpy as np

from harness.base.status import Status
from harness.base.units import PAGE_SIZE, PAGES_PER_UNIT
from harness.record.check import Check, check
from harness.record.counters import Counters
from harness.record.events import Events
from harness.record.platform import PlatformEvents
from harness.record.platform_state import Flow, PendingRun, PlatformInfo, whole_units

_SIGNAL = "conservation"


def ledger_balances(info: PlatformInfo) -> Check:
    """Pending at launch + what came back = accepted + converted + still pending, in pages."""
    flow = info.flow
    came = flow.plugged + flow.shared_to_pending + flow.private_to_pending
    detail = (
        f"pages: {info.at_launch.pending} pending at launch + {came} made pending since "
        f"({flow.shared_to_pending} converted back, {flow.private_to_pending} rescinded) = "
        f"{flow.accepted} accepted + {flow.pending_to_shared} converted + "
        f"{info.pages.pending} still pending"
        + (f" + {flow.unplugged} unplugged" if flow.unplugged else "")
    )
    name = "platform: pages conserved"
    if not info.at_launch.pending:
        return Check(name, Status.ERROR, f"nothing was ever pending ({detail})", _SIGNAL)
    holds = info.at_launch.pending == _left_pending(flow) + info.pages.pending
    return check(name, holds, detail, _SIGNAL)


def stream_agrees(stream: PlatformEvents | None, info: PlatformInfo) -> Check:
    """From the last launch on, or from the snapshot that the guest was restored from."""
    name = "platform: every call is in the stream"
    if stream is None:
        return Check(name, Status.ERROR, "there is no stream of platform events", _SIGNAL)
    pending, began = 0, ""
    for batch in stream.batches("kind", "npages", "changed", "were_pending"):
        kinds = batch["kind"]
        starts = np.flatnonzero((kinds == "launch") | (kinds == "restore"))
        at = int(starts[-1]) if starts.size else -1
        if at >= 0:
            pending, began = int(batch["npages"][at]), str(kinds[at])
        after = slice(at + 1, None)
        kinds, changed = kinds[after], batch["changed"][after].astype(np.int64)
        came = np.isin(kinds, ("to-pending", "rescind", "plug"))
        went = np.isin(kinds, ("accept", "unplug"))
        pending += int(changed[came].sum()) - int(changed[went].sum())
        pending -= int(batch["were_pending"][after].astype(np.int64).sum())
    facts = stream.facts
    lost = facts.lost + info.events.dropped
    detail = (
        f"{stream.rows} records from the {began or 'stream'} on leave {pending} pages pending, "
        f"QEMU has {info.pages.pending}; {lost} records lost, {facts.torn_bytes} bytes torn"
    )
    void = "" if began else "the launch is not in the stream"
    if lost or facts.torn_bytes:
        void = "void, records were lost"
    return check(name, pending == info.pages.pending, detail, _SIGNAL, void=void)


def pages_in_units(pending: Sequence[PendingRun], info: PlatformInfo) -> Check:
    """A page pending beside accepted ones was forgotten: nobody will accept it before its use."""
    pages = sum(run.end - run.start for run in pending) // PAGE_SIZE
    name = "platform: what is pending is whole units"
    detail = f"{len(pending)} ranges, {pages} pages"
    void = f"void, QEMU counts {info.pages.pending}" if pages != info.pages.pending else ""
    odd = [run for run in pending if not whole_units([run])]
    if odd and not void:
        detail += f"; {len(odd)} with odd ends, the first {odd[0].start:#x}-{odd[0].end:#x}"
    return check(name, not odd, detail, _SIGNAL, void=void)


def no_violations(info: PlatformInfo) -> Check:
    """Nothing was touched that the platform forbids, whatever its policy was."""
    kinds = ", ".join(f"{one.kind} {one.count}" for one in info.violations) or "none"
    last = f"; the last: {info.last_violation.describe()}" if info.last_violation else ""
    name = "platform: no illegal access"
    if not info.check:
        cause = "void, page states were not checked (check=off)"
        return Check(name, Status.ERROR, cause, "illegal-access")
    return check(name, not info.violated, f"violations: {kinds}{last}", "illegal-access")


def nothing_accepted_twice(info: PlatformInfo) -> Check:
    """No acceptance found its pages accepted already."""
    twice = info.accepts_with("already")
    detail = f"{info.accepts_with('ok')} acceptances did something, {twice} found it done"
    return check("platform: nothing accepted twice", not twice, detail, "double-accept")


def units_between(events: Events, readings: tuple[Counters, Counters]) -> int:
    """Units that the kernel's events say were accepted from one reading to the other."""
    since, until = (reading.monotonic_ns for reading in readings)
    units = 0
    for batch in events.batches("time_ns", "units"):
        inside = (batch["time_ns"] >= since) & (batch["time_ns"] <= until)
        units += int(batch["units"][inside].sum())
    return units


def kernel_events_agree(units: int, lost: int, first: PlatformInfo, last: PlatformInfo) -> Check:
    """`units` of the kernel's events from one reading to the other, of which `lost` were lost.

    What the kernel converts meanwhile, or converts back and accepts at once, leaves pending as it
    was, or is in QEMU's count of conversions.
    """
    left = _left_pending(last.flow) - _left_pending(first.flow)
    detail = (
        f"{units} units in accept events = {units * PAGES_PER_UNIT} pages, {left} pages by QEMU; "
        f"{lost} events lost"
    )
    name = "kernel's accept events and the platform agree"
    void = "void, events were lost" if lost else ""
    return check(name, units * PAGES_PER_UNIT == left, detail, _SIGNAL, void=void)


def _left_pending(flow: Flow) -> int:
    came = flow.shared_to_pending + flow.private_to_pending + flow.plugged
    return flow.accepted + flow.pending_to_shared + flow.unplugged - came
