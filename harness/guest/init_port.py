# SPDX-License-Identifier: MIT
"""Talk with the guest's init over its ready port: how far the boot is, whether userspace runs."""

import time

from harness.base.status import HostError, PreconditionError
from harness.guest.monitor import Monitor
from harness.guest.wait import Race
from harness.record.boot import BootRecord, parse_init, parse_ready
from harness.record.ready import GuestMessage

_PING_S = 3.0


class InitPort:
    """PID 1 of the guest image (guest-images/minimal/src/init.c) as the host hears it."""

    def __init__(self, monitor: Monitor, race: Race, boot: BootRecord, *, boots: bool) -> None:
        """What it says of its boot goes to `boot` if it `boots`; one restored booted elsewhere."""
        self._monitor = monitor
        self._race = race
        self._boot = boot
        self._boots = boots

    def tell(self, line: str) -> None:
        """Send it a line. Raises HostError if the port takes nothing."""
        if not self._monitor.tell(line):
            raise self._race.explain(HostError("the guest's ready port takes no commands"))

    def wait(self, event: str, deadline_s: float) -> GuestMessage:
        """Its first message of a kind. Raises PreconditionError if it talks nonsense."""
        monitor = self._monitor

        def heard() -> bool | None:
            return bool(monitor.message(event)) or (False if monitor.rejected else None)

        self._race.wait(f"the guest's {event} message", heard, deadline_s)
        found = monitor.message(event)
        if found is None:
            self.note_boot()
            raise self._race.explain(
                PreconditionError(f"the guest sent an unreadable message: {monitor.rejected}")
            )
        return found

    def wait_next_kernel(self, since_ns: int, deadline_s: float) -> None:
        """Wait for the "ready" of a kernel started after `since_ns`, and put it on record."""
        monitor = self._monitor
        ready = self._race.wait(
            "the next kernel's ready message",
            lambda: monitor.message("ready", since_ns),
            deadline_s,
        )
        self._boot.ready = parse_ready(ready)
        if init := monitor.message("init", since_ns):
            self._boot.init = parse_init(init)

    def status(self, deadline_s: float = _PING_S) -> GuestMessage | None:
        """A fresh "ready" message; None if there is no answer in time."""
        asked_ns = time.monotonic_ns()
        if not self._monitor.tell("status"):
            return None
        return self._race.poll(
            "the guest's init to answer",
            lambda: self._monitor.message("ready", asked_ns),
            deadline_s,
        )

    def note_boot(self) -> None:
        """Put on record how far the boot has come. Raises PreconditionError for nonsense."""
        if not self._boots:
            return
        monitor, boot = self._monitor, self._boot
        if monitor.first_byte_ns:
            boot.stages["kernel_start"] = monitor.first_byte_ns
        if init := monitor.message("init"):
            boot.stages["init"] = init.host_ns
            boot.init = parse_init(init)
        if ready := monitor.message("ready"):
            boot.stages["ready"] = ready.host_ns
            boot.ready = parse_ready(ready)
