# SPDX-License-Identifier: MIT
"""What a boot left on record: stages on the host's clock, and what the guest said of itself."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from harness.base.status import PreconditionError
from harness.record.ready import GuestMessage, Value

STAGES = (
    "spawn",
    "qmp_ready",
    "kernel_start",
    "init",
    "restored",
    "ready",
    "ssh_banner",
    "logged_in",
    "first_command",
)
"""In the order in which they are reached: QEMU spawned; QMP speaks; first console byte; the guest's
init and ready messages in; sshd's banner in; logged in; the first command done. A guest that was
restored from a snapshot has "restored" (it runs) in the place of kernel_start and init, and its
"ready" is the answer of its init to the host; one from a snapshot of firmware has "restored" beside
them."""

_BOOT_ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@dataclass(frozen=True)
class InitMessage:
    """The guest's userspace has begun."""

    nr_unaccepted_pages: int = -1
    """/proc/vmstat at the first userspace instruction; -1: no such counter, or not known."""
    monotonic_ns: int = -1
    """The guest's CLOCK_MONOTONIC then; -1: not known."""
    fields: Mapping[str, Value] = field(default_factory=dict)
    """All that the message held."""


@dataclass(frozen=True)
class ReadyMessage:
    """The guest's sshd listens."""

    boot_id: str = ""
    cmdline: str = ""
    """/proc/cmdline as the guest reports it."""
    monotonic_ns: int = -1
    fields: Mapping[str, Value] = field(default_factory=dict)


@dataclass
class BootRecord:
    """How far a boot got, and when."""

    stages: dict[str, int] = field(default_factory=dict)
    """Stage -> host CLOCK_MONOTONIC, ns. A stage that was not reached is missing."""
    init: InitMessage = InitMessage()
    ready: ReadyMessage = ReadyMessage()

    @property
    def restored(self) -> bool:
        """Whether the guest came from a snapshot: then no stage tells how long a boot takes."""
        return "restored" in self.stages

    def since_start_ns(self, stage: str) -> int:
        """Host time to `stage` from when the guest ran in this QEMU: from spawn, or where it came
        from a snapshot, be it one of firmware only, from there on."""
        skipped = self.since_spawn_ns("restored") if self.restored else 0
        return self.since_spawn_ns(stage) - skipped

    def since_spawn_ns(self, stage: str) -> int:
        """Host time from spawn to `stage`. Raises PreconditionError if it was not reached."""
        try:
            return self.stages[stage] - self.stages["spawn"]
        except KeyError as missing:
            raise PreconditionError(f"the boot did not reach the stage {missing}") from missing


def parse_init(message: GuestMessage) -> InitMessage:
    """The "init" message's meaning. Raises PreconditionError if a field cannot be right."""
    return InitMessage(
        _count(message, "nr_unaccepted_pages", least=-1),
        _count(message, "monotonic_ns"),
        dict(message.fields),
    )


def parse_ready(message: GuestMessage) -> ReadyMessage:
    """The "ready" message's meaning. Raises PreconditionError if a field cannot be right."""
    boot_id = message.string("boot_id")
    if not _BOOT_ID.fullmatch(boot_id):
        raise PreconditionError(f"the guest's ready message has no boot id in it: {boot_id!r}")
    return ReadyMessage(
        boot_id,
        message.string("cmdline").strip(),
        _count(message, "monotonic_ns"),
        dict(message.fields),
    )


def _count(message: GuestMessage, name: str, least: int = 0) -> int:
    if name not in message.fields:
        return -1
    value = message.integer(name)
    if value is None or value < least:
        raise PreconditionError(
            f"the guest's {message.event} message has {name} = {message.fields[name]!r}"
        )
    return value
