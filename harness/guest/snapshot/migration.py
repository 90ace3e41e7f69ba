# SPDX-License-Identifier: MIT
"""The part of QMP that saving and restoring share (qapi/migration.json)."""

from __future__ import annotations

from harness.base.status import HostError
from harness.guest.guest import Guest
from harness.guest.monitor import Event

IGNORE_SHARED = "x-ignore-shared"
"""Leave memory that is shared with others out of the stream: it is in the file already."""
_FILE_URI_SINCE = (8, 2)
_STATE_NAME = "state"


def set_capabilities(guest: Guest, *, in_files: bool) -> None:
    """Say how to migrate: with events, and without the memory if it is in files."""
    names = ["events", *([IGNORE_SHARED] if in_files else [])]
    guest.qmp.execute(
        "migrate-set-capabilities",
        {"capabilities": [{"capability": name, "state": True} for name in names]},
    )


def uri(guest: Guest, descriptor: int) -> str:
    """The migration URI for a file descriptor that QEMU inherited.

    fd: with a file behind it is deprecated in favour of file:, which came with 8.2
    (QEMU, docs/about/deprecated.rst); before, a name given by getfd is what both directions take.
    Raises HostError if QEMU does not tell its version, or does not take the descriptor.
    """
    answer = guest.qmp.execute("query-version")
    try:
        version = answer["qemu"]  # type: ignore[index]  # what it is, the except clause judges
        number = (int(version["major"]), int(version["minor"]))
    except (TypeError, KeyError, ValueError) as error:
        raise HostError(f"QEMU does not tell its version: {answer!r:.200}") from error
    if number >= _FILE_URI_SINCE:
        return f"file:/proc/self/fd/{descriptor}"
    guest.qmp.give(descriptor, _STATE_NAME)
    return f"fd:{_STATE_NAME}"


def await_migration(guest: Guest, deadline_s: float) -> None:
    """Wait for the end of a save or a load. Raises HostError with QEMU's reason if it failed."""
    status = _status(guest.qmp.wait_event("MIGRATION", _over, deadline_s=deadline_s))
    if status != "completed":
        answer = guest.qmp.execute("query-migrate")
        words = answer.get("error-desc", "") if isinstance(answer, dict) else ""
        raise HostError(f"QEMU's migration {status}" + (f": {words}" if words else ""))


def _status(event: Event) -> str:
    data = event.get("data")
    return str(data.get("status")) if isinstance(data, dict) else ""


def _over(event: Event) -> bool:
    return _status(event) in ("completed", "failed", "cancelled")
