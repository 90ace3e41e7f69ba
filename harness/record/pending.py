# SPDX-License-Identifier: MIT
"""Which memory is unaccepted: the emulated platform's `pending` file (docs/emulation.md)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from harness.base.status import PreconditionError
from harness.base.units import UNIT_SIZE

_RUN = re.compile(r"0x([0-9a-f]{1,16})-0x([0-9a-f]{1,16}) table=([01]) backend=([01])")


@dataclass(frozen=True)
class PendingRun:
    """A run of units that are alike. Guest-physical bytes; `end` is not in it."""

    start: int
    end: int
    in_table: bool
    in_backend: bool


def parse_pending(text: str, grain: int = UNIT_SIZE) -> tuple[PendingRun, ...]:
    """The runs of `pending`, ascending, in multiples of `grain` bytes.

    Raises PreconditionError; guest output is untrusted.
    """
    runs = []
    last = 0
    for line in text.splitlines():
        found = _RUN.fullmatch(line)
        start, end = (int(found[1], 16), int(found[2], 16)) if found else (0, 0)
        if not found or not last <= start < end or (start | end) % grain:
            raise PreconditionError(f"unreadable line about pending units: {line!r:.200}")
        last = end
        runs.append(PendingRun(start, end, found[3] == "1", found[4] == "1"))
    return tuple(runs)


def pending_units(runs: Iterable[PendingRun], start: int, size: int) -> int:
    """Units of [start, start + size) that the back end has as unaccepted."""
    end = start + size
    spans = (min(run.end, end) - max(run.start, start) for run in runs if run.in_backend)
    return sum(span // UNIT_SIZE for span in spans if span > 0)
