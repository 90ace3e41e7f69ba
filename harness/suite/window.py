# SPDX-License-Identifier: MIT
"""What happened in a guest between two moments: both readings, and every accept between them."""

from __future__ import annotations

import functools
import re
from collections.abc import Collection
from dataclasses import dataclass, replace

from harness.analysis.evidence import Evidence, Scope, Trace, Witness
from harness.analysis.invariants import judge
from harness.analysis.pressure import Bounds
from harness.base.status import PreconditionError
from harness.guest.process import longest_delay, run_delays
from harness.record.check import Check
from harness.record.counters import Counters, read_reading
from harness.record.platform_state import PendingRun, PlatformInfo
from harness.record.trace import AcceptEvent, lost_events, parse_events
from harness.run.run import Run

_MAX_OUTPUT = 256 << 20
_DEADLINE_S = 120.0
_MARK = "=== cvm-harness ==="
_ATTEMPTS = 5
_CUT = "cvm window"


@dataclass(frozen=True)
class Window:
    before: Counters | None
    """None: the window began with the guest's boot."""
    after: Counters
    events: tuple[AcceptEvent, ...]
    lost: int
    """Events that the trace buffer lost."""
    traced: bool
    """Whether the guest has the accept event at all."""
    platform: tuple[PlatformInfo | None, PlatformInfo] | None = None
    """What QEMU's platform said at both readings, where there is one."""
    pending: tuple[PendingRun, ...] | None = None
    """What it had as pending at the second one."""
    host_delay_ns: int = 0
    """What the host kept a vCPU waiting: no call's duration says more about the guest than this."""

    def checks(self, bounds: Bounds, waived: Collection[str] = ()) -> list[Check]:
        """Every invariant over this window but for those whose signals are `waived`."""
        units = sum(event.units for event in self.events)
        trace = Trace(units, len(self.events), self.lost, self.before) if self.traced else None
        slack = bounds.call_slack_ns + self.host_delay_ns
        evidence = Evidence(
            before=self.before,
            after=self.after,
            trace=trace,
            calls=self.events,
            pending=self.pending,
            witness=Witness(*self.platform, streamed=False) if self.platform else None,
            bounds=replace(bounds, call_slack_ns=slack),
        )
        return judge(evidence, Scope.WINDOW, waived)

    @property
    def accepted_units(self) -> int:
        """Units that the emulated back end accepted in the window."""
        first = self.before.stat("accept_units") if self.before else 0
        return self.after.stat("accept_units") - first


class Observer:
    """Cuts a guest's life into windows, the first of which is its boot."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self.last: Counters | None = None
        """The reading that closed the last window."""
        self._lost = 0
        self._platform: PlatformInfo | None = None
        self._delays: dict[int, int] = {}

    def restart(self) -> None:
        """Another kernel runs in the guest: its first window begins with its boot."""
        self.last = None
        self._lost = 0
        self._platform = None

    def cut(self) -> Window:
        """Close the window and open the next. Raises PreconditionError for unreadable output."""
        events: list[AcceptEvent] = []
        read = functools.partial(self._read, events)
        if witness := self._run.platform:
            reading, info, pending = witness.beside(read)
            platform = (self._platform, info)
            self._platform = info
        else:
            reading, platform, pending = read(), None, None
        lost = reading.lost - self._lost
        self._lost = reading.lost
        delays = run_delays(self._run.guest.pid)
        window = Window(
            before=self.last,
            after=reading.counters,
            events=tuple(events),
            lost=lost,
            traced=self._run.traced,
            platform=platform,
            pending=pending,
            host_delay_ns=longest_delay(self._delays, delays),
        )
        self._delays = delays
        self.last = window.after
        return window

    def _read(self, events: list[AcceptEvent]) -> _Reading:
        """What the guest says at rest; what was accepted since the last reading joins `events`."""
        if not self._run.traced:
            return _Reading(self._run.counters(), (), 0, at_rest=True)
        # The event stays on: turning it off patches code, and a vCPU that runs it meanwhile can
        # die of that under TCG (docs/suite.md). So the events are taken out of the buffer after
        # the counters were read, until a reading finds that nothing was accepted in between.
        for _ in range(_ATTEMPTS):
            output = self._run.guest.run(_CUT, deadline_s=_DEADLINE_S, max_output=_MAX_OUTPUT)
            reading = _parse(output.stdout.decode(errors="replace"))
            events += reading.events
            if reading.at_rest:
                return reading
        raise PreconditionError(
            f"memory was being accepted in each of {_ATTEMPTS} readings: no window can be cut"
        )


@dataclass(frozen=True)
class _Reading:
    counters: Counters
    events: tuple[AcceptEvent, ...]
    """What came since the last reading."""
    lost: int
    """Since boot."""
    at_rest: bool
    """Whether the events are those of what the counters count: nothing was under way."""


def _parse(text: str) -> _Reading:
    try:
        first, *stats, trace, last = text.split(f"{_MARK}\n")
        counters = read_reading(first)
    except ValueError as error:
        raise PreconditionError(f"the guest's window could not be read: {error}") from error
    if not stats:
        raise PreconditionError("the guest's trace has no statistics of any CPU")
    events = tuple(parse_events(trace.splitlines(keepends=True)))
    lost = sum(lost_events(block) for block in stats)
    return _Reading(counters, events, lost, _at_rest(counters, last))


def _at_rest(counters: Counters, accept_units: str) -> bool:
    """`accept_units`: the line of the back end's count after the trace was read, if it has one."""
    if not counters.emulation:
        return True
    match = re.fullmatch(r"accept_units (\d{1,19})\n", accept_units)
    if not match:
        raise PreconditionError(f"unreadable count of accepted units: {accept_units[:100]!r}")
    return int(match[1]) == counters.stat("accept_units") and not counters.stat("in_flight")
