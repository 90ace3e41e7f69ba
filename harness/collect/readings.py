# SPDX-License-Identifier: MIT
"""What is read of a guest at one moment: its counters, its clock, instructions by function."""

import time
from pathlib import Path

from harness.analysis.functions import FILE, by_function, parse_counts
from harness.base.status import PreconditionError
from harness.guest.guest import Guest
from harness.record.clocks import ClockPoint
from harness.record.counters import Counters, read_reading
from harness.record.rundir import write_json

_MAX_OUTPUT = 4 << 20
_CLOCK_ROUNDS = 5
_CLOCK_DEADLINE_S = 5.0
_MAX_KALLSYMS = 64 << 20
_NAMES_DEADLINE_S = 120.0


def read_counters(guest: Guest) -> Counters:
    """What the guest's `cvm counters` prints (docs/guest-image.md). Raises PreconditionError."""
    return read_reading(guest.run("cvm counters", max_output=_MAX_OUTPUT).stdout)


def measure_clock(guest: Guest) -> ClockPoint:
    """The guest's CLOCK_MONOTONIC by the quickest answer of a few of its init, made somewhere
    between question and arrival: half of that is the error (as in NTP, RFC 5905 section 8). Raises
    PreconditionError where init does not answer."""
    points = []
    for _ in range(_CLOCK_ROUNDS):
        asked_ns = time.monotonic_ns()
        message = guest.init.status(_CLOCK_DEADLINE_S)
        guest_ns = message.integer("monotonic_ns") if message else None
        if message is None or guest_ns is None:
            continue
        half = (message.host_ns - asked_ns + 1) // 2
        points.append(ClockPoint(asked_ns + half, guest_ns, half))
    if not points:
        raise PreconditionError("the guest's init did not answer: its clock is not known")
    return min(points, key=lambda point: point.error_ns)


def save_functions(guest: Guest, run_dir: Path) -> None:
    """Write functions.json. Raises PreconditionError where nothing was counted."""
    with (run_dir / "qemu.log").open(encoding="utf-8", errors="replace") as lines:
        addresses, counts = parse_counts(lines)
    kallsyms = "cat /proc/kallsyms"
    names = guest.run(kallsyms, max_output=_MAX_KALLSYMS, deadline_s=_NAMES_DEADLINE_S).text
    found = by_function(addresses, counts, names)
    total = sum(function.instructions for function in found)
    write_json(run_dir / FILE, {"instructions": total, "functions": found})
