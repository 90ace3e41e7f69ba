# SPDX-License-Identifier: MIT
"""run.json and a run's other JSON files as analysis reads them: whole, and what they must be. Who
shows damaged runs as well uses harness/record/view.py."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from harness.base.reader import believing, convert, read_json
from harness.record.boot import BootRecord
from harness.record.clocks import ClockPoint
from harness.record.counters import Counters
from harness.record.platform_state import PlatformInfo
from harness.record.rundir import RunDir

_T = TypeVar("_T")


class SpecRecord(msgspec.Struct, frozen=True):
    """How the guest was asked for."""

    memory: int = 0
    vcpus: int = 0
    accept: str = ""
    clock: str = "wall"


class SplatRecord(msgspec.Struct, frozen=True):
    """A report of trouble on a console."""

    kind: str
    line: str
    host_ns: int = 0
    guest_ns: int | None = None


class PlatformRecord(msgspec.Struct, frozen=True):
    """What QEMU said of the platform that it emulates."""

    statistics: Mapping[str, PlatformInfo] = {}
    """By moment: "proven", "before", "after"; those that there are."""
    at_rest: bool = False
    """Whether nothing changed state while the guest's last counters were read."""


class HostRecord(msgspec.Struct, frozen=True):
    """What the run did to its host (harness/host/state.py)."""

    kernel_log: str
    """"read", or why it could not be."""
    splats: tuple[SplatRecord, ...] = ()


class RunRecord(msgspec.Struct, frozen=True):
    """run.json."""

    id: str = ""
    spec: SpecRecord = SpecRecord()
    boot: BootRecord = msgspec.field(default_factory=BootRecord)
    counters_before: Counters | None = None
    counters_after: Counters | None = None
    counters_first_kernel: Counters | None = None
    """A workload may start other kernels (kexec): then the others are of the last one."""
    clock_points: tuple[ClockPoint, ...] = ()
    splats: tuple[SplatRecord, ...] = ()
    expected_splats: frozenset[str] = frozenset()
    workload_marks: Mapping[str, int] = {}
    trace_refused: str = ""
    platform_words: str = ""
    platform: PlatformRecord = PlatformRecord()
    host_watch: HostRecord | None = None


def run_record(record: Mapping[str, Any], where: str = "run.json") -> RunRecord:
    """Raises PreconditionError where something in it cannot be believed."""
    with believing():
        return convert(record, RunRecord, where)


def load_record(directory: Path) -> RunRecord:
    """Raises UsageError where `directory` is none of a run, PreconditionError as `run_record`."""
    return run_record(RunDir.load(directory).record, str(directory / "run.json"))


def recorded(path: Path, kind: type[_T]) -> _T | None:
    """A file of a run as a `kind`; None where the run wrote none. Raises PreconditionError."""
    if not path.exists():
        return None
    with believing():
        return read_json(path, kind)
