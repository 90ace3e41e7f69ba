# SPDX-License-Identifier: MIT
"""A guest's whole life: spawn, boot, commands, death. Nothing of it outlives the `with` block."""

from __future__ import annotations

import contextlib
import functools
import socket
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self, TypeVar

from harness.base.status import HostError, PreconditionError
from harness.guest.control import Control
from harness.guest.init_port import InitPort
from harness.guest.judge import Judge
from harness.guest.machine import ChannelFds, Machine
from harness.guest.monitor import Channels, Monitor
from harness.guest.process import QemuProcess
from harness.guest.ssh.stock import ssh_command
from harness.guest.usernet import forwarded_port
from harness.host.lease import Lease, sweep
from harness.record.boot import BootRecord
from harness.record.console import Kind, Splat
from harness.record.platform import STREAM

if TYPE_CHECKING:
    from harness.guest.ssh.commands import CommandResult, RunningCommand
    from harness.guest.ssh.session import GuestKeys, SshSession

T = TypeVar("T")


class Start(Protocol):
    """How a guest comes to run in the QEMU that was spawned for it."""

    @property
    def console(self) -> bytes:
        """What the guest has on its console before QEMU starts; empty for one that boots."""

    @property
    def boots(self) -> bool:
        """Whether the guest's init tells of a boot."""

    def bring_up(self, guest: Guest, deadline_s: float) -> Mapping[str, str]:
        """Wait until the guest's init is ready. Raises what the guest's waits raise.

        What comes back tells the guest from its likes: file in the guest -> what is in it.
        """


class ColdStart:
    """The guest boots."""

    console = b""
    boots = True

    def bring_up(self, guest: Guest, deadline_s: float) -> Mapping[str, str]:
        """Its boot id is enough."""
        guest.init.wait("ready", deadline_s)
        guest.init.note_boot()
        return {}


_QMP_START_S = 20.0
_SSH_S = 20.0
_QUIT_S = 3.0
_MAX_OUTPUT = 8 << 20
_BOOT_ID = "/proc/sys/kernel/random/boot_id"


class Guest:
    """One QEMU with one guest. A context manager; what `with` gives is booted and answers SSH."""

    def __init__(
        self,
        machine: Machine,
        run_dir: Path,
        *,
        keys: GuestKeys | None,
        boot_deadline_s: float = 120.0,
        start: Start | None = None,
    ) -> None:
        """Nothing is started yet. Deadlines are multiplied by `machine.time_scale`.

        Without `keys` nobody logs in: for a template that is to be saved. Without `start` the guest
        boots.
        """
        self.machine = machine
        self.run_dir = run_dir
        self.boot = BootRecord()
        self.ssh_port = 0
        """Host port of the guest's sshd on 127.0.0.1."""
        self._keys = keys
        self._boot_deadline_s = boot_deadline_s + machine.accept_at_boot_s
        self._start = start or ColdStart()
        self._identity: Mapping[str, str] = {}
        self._lease: Lease | None = None
        self._process: QemuProcess | None = None
        self._monitor: Monitor | None = None
        self._session: SshSession | None = None
        self._control: Control | None = None
        self._init: InitPort | None = None
        self._judge = Judge(machine, run_dir, self.boot)
        self._race = self._judge.race

    # Life and death.

    def __enter__(self) -> Self:
        """Spawn and boot. Raises GuestFailure, HostError or PreconditionError; then all is gone."""
        try:
            self._spawn()
            self._await_boot()
            if self._keys:
                self._log_in(self._keys)
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop QEMU, however it is; close and remove everything."""
        self._end()

    def _spawn(self) -> None:
        _sweep_once()
        # Imported while the guest boots: paramiko takes 150 ms.
        threading.Thread(target=_import_ssh, name="cvm-import", daemon=True).start()
        self.run_dir.mkdir(parents=True, exist_ok=True)
        self._lease = Lease(self.run_dir)
        pairs = [socket.socketpair() for _ in range(3)]
        ours, theirs = zip(*pairs, strict=True)
        channels = Channels(*ours)
        fds = [end.fileno() for end in theirs]
        events = self.run_dir.absolute() / STREAM if self.machine.witness else None
        argv = self.machine.argv(self._lease.guest_id, ChannelFds(*fds), events)
        try:
            self._process = QemuProcess(
                argv, self.run_dir / "qemu.log", [*fds, *self.machine.inherited]
            )
        except BaseException:
            channels.close()
            raise
        finally:
            for end in theirs:
                end.close()
        self.boot.stages["spawn"] = self._process.spawned_ns
        self._monitor = Monitor(
            self._process,
            channels,
            self.run_dir / "qmp.jsonl",
            self.run_dir / "console.log",
            self._race.notify,
            self.machine.time_scale,
            self._start.console,
        )
        self._lease.spawned(self._process.pid)
        self._control = Control(self._monitor, self._race, self._judge.ended, self._judge.evidence)
        self._init = InitPort(self._monitor, self._race, self.boot, boots=self._start.boots)
        self._judge.attend(self._process, self._monitor, self._control, self._init)

    def _await_boot(self) -> None:
        monitor = self._heard
        qmp_ns = self._race.wait(
            "QEMU to speak QMP", lambda: monitor.qmp_ready_ns or None, _QMP_START_S
        )
        self.boot.stages["qmp_ready"] = qmp_ns
        self.ssh_port = self._find_port()
        self._identity = self._start.bring_up(self, self._boot_deadline_s)

    def _find_port(self) -> int:
        answer = self.qmp.hmp("info usernet")
        try:
            return forwarded_port(answer)
        except ValueError as error:
            raise HostError(str(error)) from error

    def _log_in(self, keys: GuestKeys) -> None:
        from harness.guest.ssh.session import SshSession

        self._session = SshSession(self.ssh_port, keys, self._race, deadline_s=_SSH_S)
        # Of the kernel that QEMU started; one that follows it by kexec has stages of its own.
        self.boot.stages.setdefault("ssh_banner", self._session.banner_ns)
        expected = {_BOOT_ID: self.boot.ready.boot_id, **self._identity}
        command = "; ".join(f"cat {path}; echo" for path in expected)
        said = self.run(command, max_output=200, check=False).text.split()
        self.boot.stages.setdefault("first_command", time.monotonic_ns())
        if said != list(expected.values()):
            raise PreconditionError(
                f"the guest behind SSH says of itself {said} ({', '.join(expected)}), the one "
                f"that reported ready {list(expected.values())}"
            )

    def _end(self) -> None:
        self._judge.end_expected = True
        with contextlib.ExitStack() as stack:  # runs all of it, whatever any of it raises
            if self._lease:
                stack.callback(self._lease.release)
            if self._process:
                # Last: the monitor learns of QEMU's end from the descriptor that this closes.
                stack.callback(self._process.close)
            if self._monitor:
                stack.callback(self._monitor.close)
            if self._init:
                stack.callback(self._init.note_boot_quietly)
            if self._process:
                stack.callback(self._process.kill)
                stack.callback(self._quit)
            if self._session:
                stack.callback(self._session.close)

    def _quit(self) -> None:
        """Ask QEMU to end, so that it can flush; whoever calls kills it if it does not."""
        monitor, process = self._heard, self._qemu
        if process.poll() is None:
            with contextlib.suppress(Exception):  # the answer to any failure is to kill
                monitor.execute("quit", None)
                process.wait(_QUIT_S)

    def await_next_kernel(self, since_ns: int, deadline_s: float) -> None:
        """Wait for a kernel that this one started (kexec), and log in to it.

        `since_ns`: host CLOCK_MONOTONIC before it was started. Raises as `run` does.
        """
        if self._keys is None:
            raise PreconditionError("the guest has no keys to log in with")
        self.init.wait_next_kernel(since_ns, deadline_s)
        if self._session:
            self._session.close()
        self._identity = {}  # was in the memory of the kernel before
        self._log_in(self._keys)

    def poweroff(self, deadline_s: float = 30.0) -> None:
        """Have the guest's init power it off; wait for QEMU's end. Raises GuestFailure."""
        self._judge.end_expected = True
        self.init.tell("poweroff")
        self.wait_shutdown(deadline_s=deadline_s)

    def wait_shutdown(self, *, deadline_s: float) -> None:
        """Wait until QEMU has ended because the guest powered off. Raises if it ends otherwise."""
        self._judge.end_expected = True
        monitor = self._heard
        end = self._race.wait("the guest to power off", lambda: monitor.exit, deadline_s)
        if end.shutdown_reason != "guest-shutdown":
            raise self._judge.no_poweroff()

    def kill(self) -> None:
        """SIGKILL QEMU and wait for its end."""
        self._judge.end_expected = True
        self._qemu.kill()

    # Commands in the guest.

    def run(
        self,
        command: str | Sequence[str],
        *,
        deadline_s: float = 60.0,
        input: bytes | None = None,
        check: bool = True,
        max_output: int = _MAX_OUTPUT,
        on_stdout: Callable[[bytes], None] | None = None,
    ) -> CommandResult:
        """Run a command as root over SSH. See harness.guest.ssh.session.Session.run."""
        return self._ssh.run(
            command,
            deadline_s=deadline_s,
            input=input,
            check=check,
            max_output=max_output,
            on_stdout=on_stdout,
        )

    def start(
        self,
        command: str | Sequence[str],
        *,
        input: bytes | None = None,
        max_output: int = _MAX_OUTPUT,
        on_stdout: Callable[[bytes], None] | None = None,
    ) -> RunningCommand:
        """Start a command in the background. See harness.guest.ssh.session.Session.start."""
        return self._ssh.start(command, input=input, max_output=max_output, on_stdout=on_stdout)

    def stock_ssh(self) -> list[str]:
        """The stock ssh client's command line for this guest. See harness.guest.ssh.stock."""
        keys = require_started(self._keys)
        return ssh_command(self.ssh_port, keys.client_key, keys.host_public_key)

    def put(self, source: Path | bytes, remote: str, *, deadline_s: float = 60.0) -> None:
        """Write a file in the guest."""
        self._ssh.put(source, remote, deadline_s=deadline_s)

    def get(self, remote: str, max_bytes: int = 256 << 20, *, deadline_s: float = 60.0) -> bytes:
        """A guest file's bytes. Raises PreconditionError if there are more than `max_bytes`."""
        return self._ssh.get(remote, max_bytes, deadline_s=deadline_s)

    # What is known of it.

    def wait(self, what: str, probe: Callable[[], T | None], *, deadline_s: float) -> T:
        """Race `probe` against QEMU's end, a panic and the deadline. See harness.guest.wait."""
        return self._race.wait(what, probe, deadline_s)

    @property
    def expected_splats(self) -> frozenset[Kind]:
        """Kinds that the workload asks for, e.g. {Kind.OOM}; `check` passes over them."""
        return self._judge.expected_splats

    @expected_splats.setter
    def expected_splats(self, kinds: frozenset[Kind]) -> None:
        self._judge.expected_splats = kinds

    @property
    def splats(self) -> tuple[Splat, ...]:
        """What the kernel complained of on the console so far."""
        return self._judge.splats

    def check(self, expected: Iterable[Kind] = ()) -> None:
        """Raise GuestFailure for the first splat that neither `expected` nor the guest expects."""
        self._judge.check(expected)

    def check_emulator(self) -> None:
        """Raise EmulatorFlaw where what the kernel complained of is QEMU's own doing."""
        self._judge.check_emulator()

    # Parts that are there in a guest that was entered.

    @property
    def pid(self) -> int:
        """QEMU's process."""
        return self._qemu.pid

    @property
    def qmp(self) -> Control:
        """To ask of QEMU itself."""
        return require_started(self._control)

    @property
    def init(self) -> InitPort:
        """To talk with the guest's init."""
        return require_started(self._init)

    @property
    def _heard(self) -> Monitor:
        return require_started(self._monitor)

    @property
    def _qemu(self) -> QemuProcess:
        return require_started(self._process)

    @property
    def _ssh(self) -> SshSession:
        return require_started(self._session)


def require_started(part: T | None) -> T:
    if part is None:
        raise RuntimeError("the guest has not been entered")
    return part


def _import_ssh() -> None:
    import harness.guest.ssh.session  # noqa: F401


@functools.cache
def _sweep_once() -> tuple[str, ...]:
    return tuple(sweep())
