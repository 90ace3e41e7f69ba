# SPDX-License-Identifier: MIT
"""Relate the guest's clock to the host's, with the error of the measurement."""

from __future__ import annotations

import time

from harness.base.status import PreconditionError
from harness.guest.guest import Guest
from harness.record.clocks import ClockPoint

_ROUNDS = 5
_DEADLINE_S = 5.0


def measure_clock(guest: Guest) -> ClockPoint:
    """Ask the guest's init for its CLOCK_MONOTONIC and keep the quickest answer of a few.

    The answer was made somewhere between question and arrival: half of that is the error (as in
    NTP, RFC 5905 section 8). Raises PreconditionError where init does not answer.
    """
    points = []
    for _ in range(_ROUNDS):
        asked_ns = time.monotonic_ns()
        message = guest.init.status(_DEADLINE_S)
        guest_ns = message.integer("monotonic_ns") if message else None
        if message is None or guest_ns is None:
            continue
        half = (message.host_ns - asked_ns + 1) // 2
        points.append(ClockPoint(asked_ns + half, guest_ns, half))
    if not points:
        raise PreconditionError("the guest's init did not answer: its clock is not known")
    return min(points, key=lambda point: point.error_ns)
