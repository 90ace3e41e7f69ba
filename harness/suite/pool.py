# SPDX-License-Identifier: MIT
"""Guests for tests: one at a time, shared by neighbours that want the same and leave it usable."""

import contextlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from harness.analysis.accounting import counters_agree
from harness.analysis.evidence import Evidence, Scope
from harness.analysis.invariants import judge
from harness.analysis.pressure import Bounds
from harness.base.spec import GuestSpec
from harness.base.status import GuestFailure, PreconditionError, Status, worst
from harness.kernel.kernel import Kernel, overhead
from harness.kernel.version import Version
from harness.record.check import Check
from harness.record.console import unexpected
from harness.run.run import Run
from harness.run.session import Session
from harness.suite.features import missing_feature
from harness.suite.judge import Expectation
from harness.suite.need import Need, with_room_for
from harness.suite.subject import Subject
from harness.suite.window import Observer, Window

BootGuest = Callable[[GuestSpec], contextlib.AbstractContextManager[Run]]


@dataclass
class Shared:
    spec: GuestSpec
    run: Run
    observer: Observer
    boot: Window
    stack: contextlib.ExitStack
    used: bool = False
    usable: bool = True
    ahead: bool = False
    """Memory was accepted that stays on the lists of unaccepted blocks: see Need.ahead."""
    checks: list[Check] = field(default_factory=list)

    def subject(self, need: Need) -> Subject:
        """The guest as the next test sees it; what its boot showed counts for the first."""
        boot_checks = [] if self.used else self._boot_checks()
        self.used = True
        return Subject(self.run, self.observer, need, boot_checks)

    def _boot_checks(self) -> list[Check]:
        bounds = Bounds(self.spec.emulation.cost.ns_per_unit)
        splats = unexpected(self.run.guest.splats, self.run.guest.expected_splats)
        console = Evidence(console=[(splat.kind.value, splat.line) for splat in splats])
        return self.boot.checks(bounds) + judge(console, Scope.WINDOW)


class Pool:
    """Hands out guests. At most one is alive."""

    def __init__(self, boot: BootGuest) -> None:
        self._boot = boot
        self._current: Shared | None = None
        self._broken: dict[GuestSpec, PreconditionError] = {}

    def take(self, spec: GuestSpec, need: Need) -> Shared:
        """A guest of `spec` with enough unaccepted memory for `need`.

        Raises PreconditionError where a fresh one has not enough, or does not prove to be what it
        should; the second test that wants such a guest gets the same answer without a boot.
        """
        current = self._current
        if current and not self._fits(current, spec, need):
            self.drop()
            current = None
        if current is None:
            current = self._fresh(spec)
        self._demand(current, need)
        return current

    def _fits(self, shared: Shared, spec: GuestSpec, need: Need) -> bool:
        last = shared.observer.last
        return (
            shared.usable
            and shared.spec == spec
            and not (need.fresh and shared.used)
            and (need.ahead or not shared.ahead)
            and last is not None
            and last.unaccepted_pages >= need.unaccepted_pages
        )

    def _fresh(self, spec: GuestSpec) -> Shared:
        if spec in self._broken:
            first = self._broken[spec]
            raise PreconditionError(
                f"{first.cause} (seen before, not booted again)", hint=first.hint
            )
        with contextlib.ExitStack() as stack:
            try:
                run = stack.enter_context(self._boot(spec))
            except PreconditionError as error:
                self._broken[spec] = error
                raise
            observer = Observer(run)
            boot = observer.cut()
            self._current = Shared(spec, run, observer, boot, stack.pop_all())
            return self._current
        raise AssertionError("not reached: the stack suppresses nothing")

    def _demand(self, shared: Shared, need: Need) -> None:
        """The precondition of every test: something is left to be accepted."""
        last = shared.observer.last
        if last is None:
            raise PreconditionError("the guest has not been read yet")
        if last.unaccepted_pages < need.unaccepted_pages:
            agree = counters_agree(last, "at the test's start")
            if agree.status is Status.FAIL:  # a wrong counter, not too little memory
                raise GuestFailure(f"{agree.name}: {agree.detail}")
            raise PreconditionError(
                f"{last.unaccepted_pages} pages unaccepted at the start, "
                f"{need.unaccepted_pages} needed",
                hint="give the guest more memory, or see what accepted it",
            )

    def note(self, checks: Iterable[Check]) -> None:
        if self._current is not None:
            self._current.checks += checks

    def drop(self) -> None:
        """End the guest that is alive, and write its run's verdict."""
        shared, self._current = self._current, None
        if shared is None:
            return
        with shared.stack:
            status = worst(check.status for check in shared.checks)
            cause = next((f"{c.name}: {c.detail}" for c in shared.checks if c.status is status), "")
            shared.run.directory.update(checks=shared.checks)
            shared.run.directory.finish(status, "" if status is Status.PASS else cause)


@dataclass(frozen=True)
class Director:
    """For tests that take one guest after the other."""

    pool: Pool
    base: GuestSpec
    version: Version
    """Of the kernel under test."""
    known: Iterable[Expectation]

    def fresh(self, need: Need) -> Subject:
        """A guest that nobody has used. Raises as Pool.take; PreconditionError for a feature."""
        shared = self.pool.take(need.spec(self.base), replace(need, fresh=True))
        if lacks := missing_feature(shared.run, need.features):
            raise PreconditionError(lacks)
        return shared.subject(need)

    def release(self) -> None:
        self.pool.drop()


def pool_of(session: Session, kernel: Kernel) -> Pool:
    """Guests of `kernel`, each with room for what the kernel's own checks take."""

    def boot(spec: GuestSpec) -> contextlib.AbstractContextManager[Run]:
        rerun = "cvm-harness boot"  # a shared guest belongs to no single test
        spec = with_room_for(spec, overhead(kernel))
        return session.boot(session.prepare(spec, kernel), rerun=rerun)

    return Pool(boot)
