# SPDX-License-Identifier: MIT
"""What our QEMU says of the platform that it emulates (qapi/cgs-tcg.json in guest-images/qemu), and
which memory is unaccepted: the emulated platform's `pending` file (docs/emulation.md)."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import msgspec

from harness.base.status import PreconditionError
from harness.base.units import PAGE_SIZE, UNIT_SIZE

T = TypeVar("T")
_RUN = re.compile(r"0x([0-9a-f]{1,16})-0x([0-9a-f]{1,16}) table=([01]) backend=([01])")

QUERY = "query-cgs-tcg"
QUERY_PAGES = "query-cgs-tcg-pages"
FLUSH = "cgs-tcg-flush-events"
VIOLATION_EVENT = "CGS_TCG_VIOLATION"
FATAL_EVENT = "CGS_TCG_FATAL"


@dataclass(frozen=True)
class PendingRun:
    """A run of units that are alike. Guest-physical bytes; `end` is not in it."""

    start: int
    end: int
    in_table: bool
    in_backend: bool


class _Answer(msgspec.Struct, frozen=True, rename="kebab"):
    """QMP spells names with dashes. What is not asked for here is passed over."""


class Pages(_Answer, frozen=True):
    """Pages of 4 KiB by state."""

    pending: int
    private: int
    shared: int


class Flow(_Answer, frozen=True):
    """Pages of 4 KiB that changed state since the launch."""

    accepted: int
    private_to_pending: int
    pending_to_shared: int
    private_to_shared: int
    shared_to_pending: int
    implicit: int
    plugged: int
    unplugged: int


class ResultCount(_Answer, frozen=True):
    result: str
    calls: int


class Level(_Answer, frozen=True):
    """Acceptance calls of one page size: 0 for 4 KiB, 1 for 2 MiB, 2 for 1 GiB."""

    level: int
    results: tuple[ResultCount, ...]


class ViolationCount(_Answer, frozen=True):
    kind: str
    count: int


class CallCount(_Answer, frozen=True):
    interface: str
    number: int
    calls: int
    refused: int


class FaultCount(_Answer, frozen=True):
    """A defect asked for, and how often it was shown."""

    kind: str
    fired: int = 0


class EventStats(_Answer, frozen=True):
    written: int
    dropped: int


class Violation(_Answer, frozen=True):
    """An access that the platform forbids; of a device where there is no vCPU."""

    kind: str
    access: str
    gpa: int
    state: str
    action: str
    detail: str = ""
    gva: int | None = None
    vcpu: int | None = None
    rip: int | None = None
    cpl: int | None = None
    cr3: int | None = None
    rsp: int | None = None
    rbp: int | None = None
    stack: tuple[int, ...] = ()
    code: str = ""

    def describe(self) -> str:
        """As in "write to unaccepted memory at GPA 0x…, GVA 0x…, by vCPU 1 at RIP 0x…"."""
        gva = f", GVA {self.gva:#x}" if self.gva is not None else ""
        by = f"by vCPU {self.vcpu} at RIP {self.rip:#x}" if self.rip is not None else "by a device"
        what = _WORDS.get(self.kind, self.kind)
        return f"{what} ({self.access}) at GPA {self.gpa:#x}{gva}, {by}; the page is {self.state}"


_WORDS = {
    "unaccepted": "access to unaccepted memory",
    "shared-access": "shared access to private memory",
    "private-access": "private access to shared memory",
    "no-memory": "private access to an address without memory",
    "shared-code": "code or page table in shared memory",
    "bad-accept": "acceptance of memory that is not private",
    "protected": "write to a page of the platform",
    "dma": "device access to private memory",
    "shared-buffer": "a private buffer handed to the host",
}


class Fatal(_Answer, frozen=True):
    """The guest gave up and told its host."""

    code: int
    message: str
    vcpu: int
    rip: int
    rsp: int
    gpa: int | None = None
    stack: tuple[int, ...] = ()

    def describe(self) -> str:
        """The guest's own words and code."""
        said = f": {self.message!r}" if self.message else ""
        return f"the guest told its host a fatal error {self.code:#x}{said} (RIP {self.rip:#x})"


class PlatformInfo(_Answer, frozen=True):
    """Statistics since the last launch, which a snapshot carries on."""

    platform: str
    on_violation: str
    check: bool
    intercepts: bool
    launches: int
    at_launch: Pages
    pages: Pages
    flow: Flow
    accepts: tuple[Level, ...]
    conversions: tuple[ResultCount, ...]
    violations: tuple[ViolationCount, ...]
    calls: tuple[CallCount, ...]
    faults: tuple[FaultCount, ...]
    events: EventStats
    last_violation: Violation | None = None
    fatal: Fatal | None = None

    def accepts_with(self, result: str, level: int | None = None) -> int:
        """Acceptance calls that returned `result`, of one page size or of all."""
        return sum(
            count.calls
            for one in self.accepts
            for count in one.results
            if count.result == result and level in (None, one.level)
        )

    @property
    def violated(self) -> int:
        return sum(violation.count for violation in self.violations)


class _Range(_Answer, frozen=True):
    gpa: int
    npages: int
    state: str


def parse_info(answer: object) -> PlatformInfo:
    """What QEMU answers to QUERY, or run.json has of it. Raises PreconditionError."""
    return _convert(answer, PlatformInfo, "the platform's statistics")


def parse_violation(data: object) -> Violation:
    """The data of VIOLATION_EVENT. Raises PreconditionError."""
    return _convert(data, Violation, "a violation")


def parse_fatal(data: object) -> Fatal:
    """The data of FATAL_EVENT. Raises PreconditionError."""
    return _convert(data, Fatal, "the guest's fatal error")


def parse_pending(text: str, grain: int = UNIT_SIZE) -> tuple[PendingRun, ...]:
    """The runs of `pending`, ascending, in multiples of `grain` bytes. Raises PreconditionError."""
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


def parse_pending_pages(answer: object) -> tuple[PendingRun, ...]:
    """The pending memory in QEMU's answer to QUERY_PAGES, ascending, in bytes; its edges need not
    be those of units. Raises PreconditionError."""
    found = parse_pages(answer, "pending")
    return tuple(PendingRun(run.start, run.stop, True, True) for run in found)


def parse_pages(answer: object, state: str) -> tuple[range, ...]:
    """The memory in `state` of QEMU's answer to QUERY_PAGES, ascending, in bytes. Raises
    PreconditionError."""
    runs: list[range] = []
    last = 0
    for one in _convert(answer, list[_Range], f"the {state} pages"):
        if one.state != state:
            continue
        start, end = one.gpa, one.gpa + one.npages * PAGE_SIZE
        if not last <= start < end or start % PAGE_SIZE:
            raise PreconditionError(f"QEMU's {state} pages are out of order at {start:#x}")
        if runs and runs[-1].stop == start:
            runs[-1] = range(runs[-1].start, end)
        else:
            runs.append(range(start, end))
        last = end
    return tuple(runs)


def pending_text(runs: Sequence[PendingRun]) -> str:
    """As the emulated platform's `pending` file has it (docs/emulation.md)."""
    return "".join(f"{run.start:#x}-{run.end:#x} table=1 backend=1\n" for run in runs)


def whole_units(runs: Sequence[PendingRun]) -> bool:
    """Whether every run begins and ends with a unit of 2 MiB, as the kernel's table can say it."""
    return not any((run.start | run.end) % UNIT_SIZE for run in runs)


def _convert(value: object, kind: type[T], what: str) -> T:
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise PreconditionError(f"QEMU's words on {what} make no sense: {error}") from error
