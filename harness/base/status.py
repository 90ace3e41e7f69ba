# SPDX-License-Identifier: MIT
"""The verdicts (KCIDB's six test statuses), their exit codes, the exceptions that carry one."""

import enum
from collections.abc import Iterable

EXIT_USAGE = 2
EXIT_INTERRUPTED = 130


class Status(enum.Enum):
    """The outcome of a run. The order of definition is the order of severity."""

    FAIL = "FAIL"
    """The kernel under test is wrong."""
    ERROR = "ERROR"
    """The test could not judge: a precondition did not hold, or guest output made no sense."""
    MISS = "MISS"
    """The harness or the host failed: no hardware, QEMU died of its own, SSH lost."""
    PASS = "PASS"
    """Every check held, and there was something to check."""
    DONE = "DONE"
    """A measurement without a verdict."""
    SKIP = "SKIP"
    """Not applicable here, with a reason."""

    @property
    def exit_code(self) -> int:
        return {Status.FAIL: 1, Status.ERROR: 3, Status.MISS: 69}.get(self, 0)


def worst(statuses: Iterable[Status]) -> Status:
    """Roll up: the most severe of `statuses`; ERROR if there are none (nothing was checked)."""
    found = set(statuses)
    return next((s for s in Status if s in found), Status.ERROR)


class HarnessError(Exception):
    """A failure with a cause a person can act on: `cause` and `hint` (the next step) are a line
    each, `details` further lines worth showing (console tail, compiler output)."""

    status = Status.MISS
    exit_code = Status.MISS.exit_code

    def __init__(self, cause: str, *, hint: str = "", details: Iterable[str] = ()) -> None:
        super().__init__(cause)
        self.cause = cause
        self.hint = hint
        self.details = tuple(details)

    def __str__(self) -> str:
        """The cause as it stands: whoever passes an error on may have learnt more."""
        return self.cause


class UsageError(HarnessError):
    """Bad arguments or a bad input file: nothing was started. Exit code 2."""

    status = Status.ERROR
    exit_code = EXIT_USAGE


class GuestFailure(HarnessError):
    """The kernel under test misbehaved (panic, splat, hang, wrong counter): FAIL."""

    status = Status.FAIL
    exit_code = Status.FAIL.exit_code
    signal = ""
    """Short fixed word for what it is (docs/suite.md); "" where only the cause tells."""


class IllegalAccess(GuestFailure):
    """The guest did with memory what its confidential platform forbids."""

    signal = "illegal-access"


class GuestTerminated(GuestFailure):
    """The guest gave up and asked its host, through the platform, to end it."""

    signal = "terminated"


class PreconditionError(HarnessError):
    """There was nothing to check, or what came back could not be believed: ERROR."""

    status = Status.ERROR
    exit_code = Status.ERROR.exit_code


class HostError(HarnessError):
    """The host or the harness could not do its part: MISS."""


class EmulatorFlaw(HostError):
    """QEMU itself is known to go wrong like this: another try may well go right."""


class NotApplicable(HarnessError):
    """What was asked for does not exist here, with the reason: SKIP."""

    status = Status.SKIP
    exit_code = Status.SKIP.exit_code
