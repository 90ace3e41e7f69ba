# SPDX-License-Identifier: MIT
"""Event streams as our QEMU writes them, for tests."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.analysis.evidence import Witness
from harness.base.units import PAGES_PER_UNIT, UNIT_SIZE
from harness.record.platform import (
    HEADER,
    MAGIC,
    RECORD,
    PlatformEvents,
    WitnessKind,
    read_stream,
    store_stream,
)
from harness.record.platform_state import PendingRun, PlatformInfo, parse_info

UNNUMBERED = (1 << 64) - 1
HIGH = 1 << 32
PENDING = (PendingRun(HIGH, HIGH + 14 * UNIT_SIZE, True, True),)
"""What `info` has pending: seven blocks."""


def header(platform: int = 1, size: int = RECORD.itemsize) -> bytes:
    """A stream's first 64 bytes."""
    found = np.zeros(1, HEADER)
    found["magic"], found["record"], found["platform"] = MAGIC, size, platform
    found["address_bit"] = 1 << 51
    return found.tobytes()


def record(kind: int, *, seq: int = UNNUMBERED, **fields: int) -> npt.NDArray[Any]:
    """One record; without `seq` it gets the next number when it is written."""
    found = np.zeros(1, RECORD)
    found["kind"], found["seq"] = kind, seq
    for name, value in fields.items():
        found[name] = value
    return found


def write_stream(path: Path, *records: npt.NDArray[Any], platform: int = 1) -> Path:
    """A file with `records`."""
    for number, one in zip(itertools.count(), records, strict=False):
        if one["seq"][0] == UNNUMBERED:
            one["seq"] = number
    path.write_bytes(header(platform) + b"".join(one.tobytes() for one in records))
    return path


def info(**changes: Any) -> PlatformInfo:
    """QEMU's statistics of a guest that had 16 units and has accepted one and converted one."""
    calls = [{"level": 1, "results": [{"result": "ok", "calls": 1}]}]
    flow = dict.fromkeys(
        ("private-to-pending", "private-to-shared", "shared-to-pending", "implicit"), 0
    )
    flow |= {"accepted": PAGES_PER_UNIT, "pending-to-shared": PAGES_PER_UNIT}
    return parse_info(
        {
            "platform": "tdx",
            "on-violation": "stop",
            "check": True,
            "intercepts": False,
            "launches": 1,
            "at-launch": {"pending": 16 * PAGES_PER_UNIT, "private": 9, "shared": 0},
            "pages": {"pending": 14 * PAGES_PER_UNIT, "private": 521, "shared": 512},
            "flow": {**flow, "plugged": 0, "unplugged": 0},
            "accepts": calls,
            "conversions": [{"result": "ok", "calls": 1}],
            "violations": [],
            "calls": [],
            "faults": [],
            "events": {"written": 3, "dropped": 0},
        }
        | changes
    )


def small_stream(path: Path, accepted: int = PAGES_PER_UNIT) -> PlatformEvents:
    """The stream of the guest of `info`, stored."""
    write_stream(
        path,
        record(WitnessKind.LAUNCH, npages=16 * PAGES_PER_UNIT, aux=9),
        record(WitnessKind.ACCEPT, gpa=HIGH, npages=512, level=1, before=1, after=2, aux=accepted),
        record(WitnessKind.TO_SHARED, gpa=HIGH + UNIT_SIZE, npages=512, aux=512 << 32 | 512),
    )
    store_stream(read_stream(path), path.with_suffix(".parquet"))
    return PlatformEvents(path.with_suffix(".parquet"))


def witness(stream: PlatformEvents | None, *, at_rest: bool = True, **changes: Any) -> Witness:
    """The platform of the guest of `info`, with `changes` to it."""
    return Witness(info(), info(**changes), stream, at_rest=at_rest)
