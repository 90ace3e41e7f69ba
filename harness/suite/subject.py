# SPDX-License-Identifier: MIT
"""What a test of the suite works with: one window of one guest, and the checks made in it."""

import contextlib
import shlex
from collections.abc import Mapping, Sequence

from harness.analysis.evidence import Evidence, Scope
from harness.analysis.invariants import judge
from harness.analysis.pressure import Bounds
from harness.base.emulation import CostModel
from harness.base.status import (
    EmulatorFlaw,
    GuestFailure,
    HarnessError,
    HostError,
    PreconditionError,
    Status,
)
from harness.base.units import PAGE_SIZE, UNIT_SIZE
from harness.kernel.make import KernelBuildError
from harness.record.check import Check, check
from harness.record.console import unexpected
from harness.record.counters import Counters
from harness.record.platform_state import PendingRun, parse_pending
from harness.run.run import Run
from harness.suite.features import EMULATION, missing_feature
from harness.suite.hook import run_hook, why_no_hooks
from harness.suite.need import Need
from harness.suite.window import Observer, Window
from harness.workloads.base import WorkloadResult
from harness.workloads.touch import Touch


class Subject:
    def __init__(self, run: Run, observer: Observer, need: Need, boot_checks: Sequence[Check]):
        self.run = run
        self.need = need
        self.checks: list[Check] = []
        """What the test has looked at so far, by itself."""
        self.windows: list[Window] = []
        """The test's closed windows; each is checked when the test has ended."""
        self.cost_ns = run.spec.emulation.cost.ns_per_unit
        self._observer = observer
        self._boot_checks = tuple(boot_checks)
        self._splats_before = len(run.guest.splats)
        self._expected_before = run.guest.expected_splats
        run.guest.expected_splats |= need.expected_splats

    @property
    def before(self) -> Counters:
        """The reading at the test's start."""
        if self._observer.last is None:
            raise PreconditionError("the guest has not been read yet")
        return self._observer.last

    def counters(self) -> Counters:
        return self.run.counters()

    def sh(self, script: str, *, deadline_s: float = 60.0, check: bool = True) -> str:
        """Run a shell script in the guest; what it printed. See Guest.run."""
        return self.run.guest.run(script, deadline_s=deadline_s, check=check).text

    def read(self, path: str) -> str:
        return self.sh(f"cat {shlex.quote(path)}")

    def write(self, path: str, text: str, *, deadline_s: float = 60.0) -> bool:
        """Write `text` to a control file; whether the kernel took it."""
        script = f"printf %s {shlex.quote(text)} > {shlex.quote(path)}"
        return self.run.guest.run(script, deadline_s=deadline_s, check=False).exit_status == 0

    def touch(self, size: int, **options: object) -> WorkloadResult:
        """First-touch `size` bytes of anonymous memory (harness/workloads/touch.py)."""
        return Touch(bytes=size, **options).run(self.run.guest, lambda _: None)  # type: ignore[arg-type]

    def available_bytes(self) -> int:
        """Memory that can be allocated now without reclaim, near enough: free, unaccepted too."""
        return self.counters().free_pages * PAGE_SIZE

    def hook(self, verb: str, /, **words: int | str) -> Mapping[str, int]:
        """A command of the in-kernel test hooks. See `run_hook`."""
        return run_hook(self.run.guest, verb, words)

    def hook_within(self, deadline_s: float, verb: str, /, **words: int | str) -> Mapping[str, int]:
        """The same, for what would hang if the kernel were wrong."""
        return run_hook(self.run.guest, verb, words, deadline_s)

    def soak(self) -> Counters:
        """Take free accepted memory away, so that what comes next has to be accepted. Where the
        kernel has no hooks for it nothing is taken. The reading afterwards."""
        if self.has("hook"):
            self.hook("soak", size=4 << 20)
        return self.counters()

    def pending(self, least_bytes: int = 0) -> list[range]:
        """Guest-physical runs of at least `least_bytes` that both records have as unaccepted."""
        runs = [
            range(run.start, run.end)
            for run in self._pending_runs()
            if run.in_table and run.in_backend and run.end - run.start >= least_bytes
        ]
        self.require(bool(runs), f"no run of {least_bytes} bytes is pending")
        return runs

    def _pending_runs(self) -> Sequence[PendingRun]:
        # What QEMU has as pending is whole units, and what the kernel's table has: every run's
        # verdict says so (docs/tcg-platforms.md).
        if self.run.platform:
            return self.run.platform.pending()
        return parse_pending(self.read(f"{EMULATION}/pending"))

    def has(self, feature: str) -> bool:
        """Whether the guest has a feature of harness/suite/features.py, or can be given it."""
        try:
            return not missing_feature(self.run, (feature,))
        except (PreconditionError, HostError, KernelBuildError):
            return False  # tests that cannot do without it say so in their mark

    def cut(self) -> Window:
        """Close the window so far, for the test to look at its accepts; another one begins."""
        window = self._observer.cut()
        self.windows.append(window)
        return window

    def next_kernel(
        self, since_ns: int, deadline_s: float = 120.0, *, crash: bool = False
    ) -> Counters:
        """Wait for the kernel that this one has started; its first reading.

        A `crash` kernel lives in memory that its predecessor had accepted, so that its boot need
        not accept anything, as every other boot must.
        """
        self._observer.restart()  # first: whatever is read from here on is not of the old kernel
        self.windows.clear()
        self.run.guest.await_next_kernel(since_ns, deadline_s)
        if {"hook", "hook-early"} & set(self.need.features):
            why_no_hooks(self.run)  # a module went with the kernel before
        self.cut()
        if crash:
            self.windows.clear()
        return self.before

    def accepted_since(self, before: Counters) -> int:
        """Pages that left the unaccepted lists since the reading `before`."""
        return before.unaccepted_pages - self.counters().unaccepted_pages

    def must_have_accepted(self, before: Counters, least_bytes: int = 4 << 20) -> None:
        """ERROR unless memory had to be accepted since `before`: else nothing was tested."""
        now = self.counters()
        pages = before.unaccepted_pages - now.unaccepted_pages
        spare, left = (reading.free_pages - reading.unaccepted_pages for reading in (before, now))
        self.require(
            pages * PAGE_SIZE >= least_bytes,
            f"the test had {pages} pages accepted: too few to have tested anything "
            f"({spare} accepted pages were free before, {left} are now)",
        )

    def illegal_accesses(self) -> int:
        """How many accesses to unaccepted memory the emulated platform has seen."""
        if self.run.platform:
            return self.run.platform.info().violated
        return self.counters().stat("illegal_accesses")

    def accepted_units(self) -> int:
        """How many units the emulated platform has accepted."""
        if self.run.platform:
            return self.run.platform.info().flow.accepted * PAGE_SIZE // UNIT_SIZE
        return self.counters().stat("accept_units")

    def set_cost(self, ns_per_unit: int) -> None:
        """Let each emulated accept of a unit take `ns_per_unit` until the test ends."""
        self._cost(CostModel("test", ns_per_unit, "as the test asks"))
        self.cost_ns = ns_per_unit

    def _cost(self, cost: CostModel) -> None:
        if self.run.platform:
            self.run.platform.set_cost(cost.ns_per_page, cost.ns_per_unit)
        elif not self.write(f"{EMULATION}/cost_ns", str(cost.ns_per_unit)):
            raise PreconditionError("the emulated platform takes no cost")

    def verify(self, signal: str, holds: bool, detail: str, name: str = "") -> bool:
        """Record one check of the test. It is judged when the test ends; the test goes on."""
        self.checks.append(check(name or signal, holds, detail, signal))
        return holds

    def require(self, holds: bool, detail: str) -> None:
        """A precondition. Raises PreconditionError (ERROR) where it does not hold."""
        if not holds:
            raise PreconditionError(detail)

    def conclude(self, error: Exception | None) -> tuple[Check, ...]:
        """The test is over: as `look`, and ERROR where the test has looked at nothing."""
        if error is None and not self.checks:
            detail = "the test ended without having checked anything"
            name = "the test checks something"
            self.checks.append(Check(name, Status.ERROR, detail, "precondition"))
        if self.cost_ns != self.run.spec.emulation.cost.ns_per_unit:
            self._reset_cost()
        found = self.look(error)
        self.run.guest.expected_splats = self._expected_before
        return found

    def look(self, error: Exception | None) -> tuple[Check, ...]:
        """Close the window; everything that was checked so far, the invariants included.

        `error` is what ended the test's body, if anything did; it becomes a check as well.
        Raises EmulatorFlaw where QEMU itself went wrong: then there is nothing to judge.
        """
        if isinstance(error, EmulatorFlaw):
            raise error
        self.run.guest.check_emulator()
        found = [*self._boot_checks, *self.checks]
        self._boot_checks = ()
        if error is not None:
            found.append(_as_check(error))
        if not isinstance(error, GuestFailure):
            try:
                self.cut()
                waived = {"rises"} if self.need.grows else set()
                if self.need.ahead:
                    waived |= {"table", "waiting"}  # callers overlap on purpose
                for window in self.windows:
                    found += window.checks(self._bounds(), waived)
            except EmulatorFlaw:
                raise
            except HarnessError as broken:
                if not self.need.spoils or isinstance(broken, GuestFailure):
                    found.append(_as_check(broken))
        self.windows.clear()
        found += self._console()
        return tuple(found)

    def _reset_cost(self) -> None:
        with contextlib.suppress(HarnessError):  # a dead guest is reported by the reading
            self._cost(self.run.spec.emulation.cost)

    def _bounds(self) -> Bounds:
        return Bounds(
            cost_ns_per_unit=self.cost_ns,
            reclaim=self.need.reclaim,
            large_calls=self.need.large_calls,
        )

    def _console(self) -> list[Check]:
        """One check for each kind of report that came in the window and was not asked for."""
        guest = self.run.guest
        found = unexpected(guest.splats[self._splats_before :], guest.expected_splats)
        self._splats_before = len(guest.splats)
        reports = [(splat.kind.value, splat.line) for splat in found]
        return judge(Evidence(console=reports), Scope.WINDOW)


def _as_check(error: Exception) -> Check:
    if isinstance(error, HarnessError):
        name = type(error).__name__
        return Check(name, error.status, error.cause, signal_of(error))
    text = str(error).strip().splitlines()
    detail = text[0] if text else ""
    if isinstance(error, AssertionError):
        return Check("assertion", Status.FAIL, detail, "assertion")
    return Check(type(error).__name__, Status.MISS, detail, "harness")


def signal_of(error: HarnessError) -> str:
    """The signal that an error stands for where no check said more."""
    if not isinstance(error, GuestFailure):
        return "precondition" if isinstance(error, PreconditionError) else "host"
    if error.signal:
        return error.signal
    for word, signal in (("panicked", "panic"), ("hung", "hang"), ("reset itself", "reset")):
        if word in error.cause:
            return signal
    return "guest-failure"
