# SPDX-License-Identifier: MIT
"""All that invariants look at: what was recorded of a guest over a run or a window of a test."""

import enum
from collections.abc import Sequence
from dataclasses import dataclass

from harness.analysis.kexec import KexecCycle, found_nothing_unaccepted
from harness.analysis.pressure import Bounds
from harness.analysis.reboot import RebootCycle
from harness.base.overhead import Overhead
from harness.base.spec import AcceptMode
from harness.record.counters import Counters
from harness.record.events import Events
from harness.record.histogram import KernelHistogram
from harness.record.platform import PlatformEvents
from harness.record.platform_state import PendingRun, PlatformInfo
from harness.record.run import RunRecord
from harness.record.samples import Samples
from harness.record.trace import AcceptEvent


class Scope(enum.StrEnum):
    """What an invariant is asked of."""

    RUN = "runs"
    """A whole run, from its directory alone."""
    WINDOW = "windows"
    """What happened in a guest around one test of the suite."""
    BOOT = "boots"
    """A boot, by the tests that judge boots."""


@dataclass(frozen=True)
class Trace:
    """What the accept event told."""

    units: int
    """Accepted in all of its events."""
    events: int
    lost: int
    since: Counters | None = None
    """The reading from which on it counts; None: the guest's whole life."""


@dataclass(frozen=True)
class Witness:
    """What QEMU saw as the confidential platform that it emulates."""

    before: PlatformInfo | None
    """At the reading `before`."""
    after: PlatformInfo | None
    stream: PlatformEvents | None = None
    """Every call of the guest to its platform."""
    streamed: bool = True
    """Whether there has to be a stream: QEMU's ends with the guest, a window's is not stored."""
    at_rest: bool = True
    """Whether nothing changed state while the guest's last counters were read."""


@dataclass(frozen=True)
class Evidence:
    """What is known of a guest over a run or a window. What is None or empty was not recorded."""

    before: Counters | None = None
    """None: the window began with the guest's boot."""
    after: Counters | None = None
    first: Counters | None = None
    """The first kernel's first reading, where a workload started others and `before` is of the
    last one."""
    record: RunRecord = RunRecord()  # noqa: RUF009 - frozen
    """Of a whole run."""
    loaded: bool = False
    """Whether a workload ran that has to accept memory."""
    trace: Trace | None = None
    probed: Events | None = None
    """Accepts that probes saw; from `before` on all of them."""
    recorded: Events | None = None
    """Accepts that the trace event recorded beside `probed`."""
    events: Events | None = None
    """Accepts of a run one by one, whoever recorded them."""
    histograms: Sequence[KernelHistogram] = ()
    pending: Sequence[PendingRun] | None = None
    """What is pending at the reading `after`, by the emulated platform or QEMU's."""
    witness: Witness | None = None
    samples: Samples | None = None
    cycles: Sequence[KexecCycle] = ()
    reboots: Sequence[RebootCycle] = ()
    calls: Sequence[AcceptEvent] = ()
    """Every accept of a window, for `bounds`."""
    bounds: Bounds | None = None
    vcpus: int = 0
    overhead: Overhead = Overhead()  # noqa: RUF009 - frozen
    console: Sequence[tuple[str, str]] | None = None
    """Kind and line of each report on the console that was not asked for."""

    @property
    def readings(self) -> tuple[tuple[Counters, str], ...]:
        both = ((self.before, "before the workload"), (self.after, "after the workload"))
        return tuple((counters, when) for counters, when in both if counters is not None)

    @property
    def handed_nothing(self) -> bool:
        """Whether the kernel was started by one that had accepted everything (kexec)."""
        if self.first is None or self.before is None:
            return False
        return found_nothing_unaccepted(self.first, self.before)

    @property
    def added_units(self) -> int:
        """Units hot-added between the readings."""
        if self.before is None or self.after is None or not self.after.emulation:
            return 0
        return self.after.stat("units_added") - self.before.stat("units_added")

    @property
    def accept_mode(self) -> AcceptMode | None:
        """How a run's guest was to accept; None: the record does not say."""
        asked = self.record.spec.accept
        return AcceptMode(asked) if asked in set(AcceptMode) else None
