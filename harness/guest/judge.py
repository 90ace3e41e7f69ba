# SPDX-License-Identifier: MIT
"""What became of a guest: from its console, its init and QEMU's end to the error that says it."""

from dataclasses import dataclass
from pathlib import Path

from harness.base.status import GuestFailure, HarnessError, HostError, PreconditionError
from harness.guest import verdict
from harness.guest.control import Control
from harness.guest.init_port import InitPort
from harness.guest.machine import Machine
from harness.guest.monitor import Monitor
from harness.guest.process import QemuProcess
from harness.guest.wait import Expired, Race, WaitEnd
from harness.record.boot import BootRecord
from harness.record.console import Kind, Splat, unexpected

_TAIL_LINES = 15
_HALT_LINES = 100
"""The registers of a CPU come after what QEMU says of it."""


@dataclass(frozen=True)
class Live:
    """What there is of a guest that has been spawned."""

    process: QemuProcess
    monitor: Monitor
    control: Control
    init: InitPort


class Judged:
    """The part of a guest that knows what became of it: all its waits go through `race`, and each
    that fails is explained here."""

    def __init__(self, machine: Machine, run_dir: Path) -> None:
        self.machine = machine
        self.run_dir = run_dir
        self.boot = BootRecord()
        self.live: Live | None = None
        self.expected_splats: frozenset[Kind] = frozenset()
        """Kinds that are caused on purpose, e.g. {Kind.OOM}."""
        self.end_expected = False
        """Whether QEMU was asked to end."""
        self.race = Race(
            self._verdict,
            evidence=self.evidence,
            judge=self._judge,
            time_scale=machine.time_scale,
        )

    @property
    def splats(self) -> tuple[Splat, ...]:
        """What the kernel complained of on the console so far."""
        return self.live.monitor.splats if self.live else ()

    def check_emulator(self) -> None:
        """Raise EmulatorFlaw where what the kernel complained of is QEMU's own doing."""
        if flaw := self._flaw():
            raise self._explained(flaw)

    def no_poweroff(self) -> HarnessError:
        """The error for a QEMU that ended, but not because the guest powered off."""
        found = self._on_exit(asked=False)
        assert found
        return self._explained(found)

    def ended(self) -> WaitEnd | None:
        return self._on_exit(asked=self.end_expected)

    def evidence(self) -> tuple[str, ...]:
        tail = self.live.monitor.tail(_TAIL_LINES) if self.live else ()
        shown = ("last console lines:", *tail) if tail else ()
        return (*shown, f"run directory: {self.run_dir}")

    def _on_exit(self, *, asked: bool) -> WaitEnd | None:
        if not self.live or self.live.monitor.exit is None:
            return None
        return verdict.on_exit(self.live.monitor.exit, self.live.process.said(), asked=asked)

    def _explained(self, found: WaitEnd) -> HarnessError:
        return self.race.explain(found.error(found.cause, hint=found.hint, details=found.details))

    def _flaw(self) -> WaitEnd | None:
        return verdict.on_stale_code(self.splats) if self.machine.stale_code else None

    def _verdict(self) -> WaitEnd | None:
        if not self.live:
            return None
        monitor = self.live.monitor
        if monitor.violation:
            return verdict.on_violation(monitor.violation)
        if monitor.terminated:
            return verdict.on_termination(monitor.terminated, monitor.fatal)
        if monitor.exit is None and monitor.halted:
            return verdict.on_halt(monitor.halted, self.live.process.said(_HALT_LINES))
        if monitor.exit is None and Kind.PANIC in self.expected_splats:
            return None  # a crash kernel takes over from a panic
        if monitor.panicked or (monitor.exit and monitor.fatal):
            return self._flaw() or verdict.on_panic(monitor.fatal)
        return self.ended()

    def _judge(self, error: HarnessError) -> HarnessError:
        """What a deadline that passed, or a broken connection, says about the guest."""
        if flaw := self._flaw():
            return self._explained(flaw)
        assert self.live
        init, stages = self.live.init, self.boot.stages
        if not isinstance(error, Expired):  # the SSH connection broke, and no better cause came
            return self._on_broken_connection(error, init)
        if "ready" not in stages:
            init.note_boot()
        state = self._diagnose(self.live)
        judged: HarnessError
        if "qmp_ready" not in stages:
            judged = HostError(f"QEMU does not answer: {error.cause}")
        elif "ready" not in stages:
            cause = f"the guest hung: {error.cause}; the last stage it reached is {[*stages][-1]}"
            judged = GuestFailure(cause, details=state)
        elif init.status():
            cause = f"{error.cause}; the guest is alive otherwise"
            judged = PreconditionError(cause, details=state)
        else:
            cause = f"the guest hung: {error.cause}, and its init is silent"
            judged = GuestFailure(cause, details=state)
        return self.race.explain(judged)

    def _on_broken_connection(self, error: HarnessError, init: InitPort) -> HarnessError:
        if bad := unexpected(self.splats, self.expected_splats):  # e.g. the OOM killer took it
            return self.race.explain(
                GuestFailure(f"{bad[0].describe()}; {error.cause}", details=bad[0].context)
            )
        healthy = "healthy: its init answers" if init.status() else "silent as well"
        error.cause = f"{error.cause}; the guest is {healthy}"
        return self.race.explain(error)

    def _diagnose(self, live: Live) -> tuple[str, ...]:
        """QEMU's view of a guest that does not get on; the registers go to hang.txt."""
        if not live.monitor.qmp_ready_ns or live.monitor.exit:
            return ()
        try:
            name, registers = live.control.state()
        except HarnessError as error:
            return (f"QEMU did not tell the guest's state: {error.cause}",)
        path = self.run_dir / "hang.txt"
        path.write_text(registers)
        return (f"QEMU says the guest is {name}; its registers, read twice, are in {path}",)
