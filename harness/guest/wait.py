# SPDX-License-Identifier: MIT
"""The one wait primitive: race {what is waited for, QEMU's exit, a verdict on the guest, deadline}.
Every failure names what it waited for and for how long, and ends with the evidence."""

import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TypeVar

from harness.base.status import GuestFailure, HarnessError, HostError, PreconditionError

T = TypeVar("T")
_LONGEST_NAP_S = 3600.0


@dataclass(frozen=True)
class WaitEnd:
    """Why waiting any longer is pointless."""

    error: type[GuestFailure] | type[HostError] | type[PreconditionError]
    cause: str
    hint: str = ""
    details: tuple[str, ...] = ()


class Expired(HarnessError):
    """A deadline passed. The judge of the race turns it into a verdict."""


class Changes:
    """A count of what happened, to sleep on without missing anything."""

    def __init__(self) -> None:
        self.count = 0
        self._condition = threading.Condition()

    def notify(self) -> None:
        """Something changed: every waiter looks again. Cheap; safe under a caller's lock."""
        with self._condition:
            self.count += 1
            self._condition.notify_all()

    def sleep(self, seen: int, seconds: float) -> None:
        """Sleep unless something happened since `seen`; up to `seconds`."""
        with self._condition:
            if self.count == seen:
                self._condition.wait(min(seconds, _LONGEST_NAP_S))


class Race:
    """Waits on behalf of one guest. Any thread may wait; any thread may notify."""

    def __init__(
        self,
        verdict: Callable[[], WaitEnd | None],
        *,
        evidence: Callable[[], tuple[str, ...]] = tuple,
        judge: Callable[[HarnessError], HarnessError] = lambda error: error,
        time_scale: float = 1.0,
        changes: Changes | None = None,
    ) -> None:
        self.judge = judge
        """Turns Expired, and whatever else a user wants judged, into the error to raise."""
        self.time_scale = time_scale
        self._verdict = verdict
        self._evidence = evidence
        self.changes = changes or Changes()
        self.notify = self.changes.notify

    def wait(
        self,
        what: str,
        probe: Callable[[], T | None],
        deadline_s: float | None,
        *,
        started: float | None = None,
        judged: bool = True,
    ) -> T:
        """The first value of `probe()` that is not None, within `deadline_s` (before scaling).

        Raises GuestFailure, HostError or PreconditionError for a verdict; what the judge makes of
        Expired at the deadline, or that if it is not to be `judged`. `probe` is called without any
        lock held. `started` is when waiting for it began (time.monotonic()), if not now.
        """
        start = time.monotonic() if started is None else started
        end = math.inf if deadline_s is None else start + deadline_s * self.time_scale
        while True:
            seen = self.changes.count
            value = probe()
            if value is not None:
                return value
            now = time.monotonic()
            self.check(what, now - start)
            if now >= end:
                expired = Expired(f"waited {now - start:.1f} s for {what}")
                raise self.judge(expired) if judged else expired
            self.changes.sleep(seen, end - now)

    def poll(self, what: str, probe: Callable[[], T | None], deadline_s: float) -> T | None:
        """As `wait`, but None at the deadline."""
        try:
            return self.wait(what, probe, deadline_s, judged=False)
        except Expired:
            return None

    def call(
        self,
        what: str,
        function: Callable[[], T],
        deadline_s: float,
        abandon: Callable[[], object],
    ) -> T:
        """`function()` in a thread of its own; `abandon()` must make it return if it is given up.

        For library calls that block without a deadline. Raises as `wait`, and what `function` does.
        """
        future: Future[T] = Future()
        future.add_done_callback(lambda _: self.notify())

        def work() -> None:
            try:
                future.set_result(function())
            except BaseException as error:
                future.set_exception(error)

        thread = threading.Thread(target=work, name=f"cvm-call {what}", daemon=True)
        thread.start()
        try:
            self.wait(what, lambda: future.done() or None, deadline_s)
        except BaseException:
            abandon()
            thread.join(timeout=1.0)
            raise
        thread.join()
        return future.result()

    def check(self, what: str, waited_s: float) -> None:
        verdict = self._verdict()
        if verdict:
            raise verdict.error(
                f"{verdict.cause} (while waiting for {what}, {waited_s:.1f} s)",
                hint=verdict.hint,
                details=(*verdict.details, *self._evidence()),
            )

    def explain(self, error: HarnessError) -> HarnessError:
        """`error` with the evidence appended to its details."""
        error.details = (*error.details, *self._evidence())
        return error
