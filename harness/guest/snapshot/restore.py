# SPDX-License-Identifier: MIT
"""Bring a guest back from its snapshot: device state in, memory mapped, then a guest of its own.

What it has of its template and must not keep is the wall clock and the random numbers. Its boot id
stays, so a nonce takes the boot id's part in proving that the guest behind the ready port is the
one behind SSH: sent over the port, answered there, and read back over SSH.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass

from harness.base.status import PreconditionError
from harness.guest.guest import ColdStart, Guest
from harness.guest.snapshot.migration import await_migration, set_capabilities, uri
from harness.guest.snapshot.snapshot import OpenSnapshot
from harness.record.boot import parse_init, parse_ready
from harness.record.ready import GuestMessage

NONCE_PATH = "/run/harness-nonce"
"""Where the guest's init keeps the nonce (guest-images/minimal/src/resume.c)."""
_HELD = {"path": "/machine/fw_cfg", "property": "held"}
"""Of a machine that is `holding`: whether it was stopped for it."""
_NONCE_BYTES = 16
_SEED_BYTES = 64
_LOAD_S = 20.0
_ANSWER_S = 20.0


@dataclass(frozen=True)
class Restored:
    """The start of a guest that is restored; its machine waits for it (snapshot.machine)."""

    snapshot: OpenSnapshot
    boots = False

    @property
    def console(self) -> bytes:
        """Its template's."""
        return self.snapshot.console

    def bring_up(self, guest: Guest, deadline_s: float) -> Mapping[str, str]:
        """Restored guests share a boot id: the nonce tells them apart."""
        return {NONCE_PATH: restore(guest, self.snapshot)}


@dataclass(frozen=True)
class AfterFirmware:
    """The start of a guest whose firmware has run before; its own kernel boots."""

    snapshot: OpenSnapshot
    boots = True

    @property
    def console(self) -> bytes:
        """What the firmware had said."""
        return self.snapshot.console

    def bring_up(self, guest: Guest, deadline_s: float) -> Mapping[str, str]:
        """As for any guest that boots."""
        load(guest, self.snapshot)
        return ColdStart().bring_up(guest, deadline_s)


class UntilKernel:
    """The start of a guest that is to be saved before its firmware has read a kernel."""

    console = b""
    boots = False

    def bring_up(self, guest: Guest, deadline_s: float) -> Mapping[str, str]:
        """Until QEMU has stopped it there."""
        guest.qmp.wait_event("STOP", deadline_s=deadline_s)
        if guest.qmp.execute("qom-get", _HELD) is not True:
            raise PreconditionError("QEMU stopped the guest before its firmware asked for a kernel")
        guest.boot.stages["held"] = time.monotonic_ns()
        return {}


def load(guest: Guest, snapshot: OpenSnapshot) -> None:
    """Load the device state, and let the guest run. Raises what the guest's waits raise."""
    set_capabilities(guest, in_files=bool(snapshot.manifest.ram))
    guest.qmp.execute("migrate-incoming", {"uri": uri(guest, snapshot.state)})
    await_migration(guest, _LOAD_S)
    guest.qmp.execute("cont")  # it was stopped when it was saved, and that is part of its state
    guest.boot.stages["restored"] = time.monotonic_ns()


def restore(guest: Guest, snapshot: OpenSnapshot) -> str:
    """Bring a guest back to where its template was; returns its nonce.

    Raises what the guest's waits raise, and PreconditionError if what answers is not the guest.
    """
    # What its template said of its boot. Said again by nobody, and as true of this guest.
    guest.boot.init = parse_init(GuestMessage("init", snapshot.manifest.init, 0))
    guest.boot.ready = parse_ready(GuestMessage("ready", snapshot.manifest.ready, 0))
    load(guest, snapshot)
    nonce = secrets.token_hex(_NONCE_BYTES)
    guest.init.tell(f"resume {nonce} {time.time_ns()} {os.urandom(_SEED_BYTES).hex()}")
    answer = guest.init.wait("resumed", _ANSWER_S)
    if answer.string("nonce") != nonce:
        raise PreconditionError("a restored guest answered with a nonce that it was not given")
    guest.boot.stages["ready"] = answer.host_ns
    return nonce
