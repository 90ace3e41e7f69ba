# SPDX-License-Identifier: MIT
"""A guest's whole life: spawn, boot, commands, death. Nothing of it outlives the `with` block."""

from __future__ import annotations

import contextlib
import functools
import shlex
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, Self, TypeVar, Unpack

from harness.base.status import PreconditionError
from harness.guest.control import Control
from harness.guest.init_port import InitPort
from harness.guest.judge import Judged, Live
from harness.guest.machine import ChannelFds, Machine
from harness.guest.monitor import Channels, Monitor
from harness.guest.process import QemuProcess
from harness.host.lease import Lease, sweep
from harness.record.platform import STREAM

if TYPE_CHECKING:
    from harness.guest.ssh.commands import CommandResult, RunningCommand, StartOptions
    from harness.guest.ssh.session import SshSession
    from harness.image.keys import Keys

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
        """Wait until the guest's init is ready. Raises what the guest's waits raise. What comes
        back tells the guest from its likes: file in the guest -> what is in it."""


class ColdStart:
    console = b""
    boots = True

    def bring_up(self, guest: Guest, deadline_s: float) -> Mapping[str, str]:
        guest.init.wait("ready", deadline_s)
        guest.init.note_boot()
        return {}


_QMP_START_S = 20.0
_SSH_S = 20.0
_QUIT_S = 3.0
_BOOT_ID = "/proc/sys/kernel/random/boot_id"


class Guest(Judged):
    """One QEMU with one guest. A context manager; what `with` gives is booted and answers SSH."""

    def __init__(
        self,
        machine: Machine,
        run_dir: Path,
        *,
        keys: Keys | None,
        boot_deadline_s: float = 120.0,
        start: Start | None = None,
    ) -> None:
        """Nothing is started yet. Deadlines are multiplied by `machine.time_scale`. Without `keys`
        nobody logs in: for a template that is to be saved. Without `start` the guest boots."""
        super().__init__(machine, run_dir)
        self.ssh_port = 0
        """Host port of the guest's sshd on 127.0.0.1."""
        self._keys = keys
        self._boot_deadline_s = boot_deadline_s + machine.accept_at_boot_s
        self._start = start or ColdStart()
        self._identity: Mapping[str, str] = {}
        self._session: SshSession | None = None
        self._end = contextlib.ExitStack()
        """What ends the guest, the last thing first; all of it runs, whatever any of it raises."""

    # Life and death.

    def __enter__(self) -> Self:
        """Spawn and boot. Raises GuestFailure, HostError or PreconditionError; then all is gone."""
        try:
            self._spawn()
            self._await_boot()
            if self._keys:
                self._log_in(self._keys)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.end_expected = True
        self._end.close()

    def _spawn(self) -> None:
        _sweep_once()
        # Imported while the guest boots: paramiko takes 150 ms.
        threading.Thread(target=_import_ssh, name="cvm-import", daemon=True).start()
        self.run_dir.mkdir(parents=True, exist_ok=True)
        lease = Lease(self.run_dir)
        self._end.callback(lease.release)
        pairs = [socket.socketpair() for _ in range(3)]
        ours, theirs = zip(*pairs, strict=True)
        channels = Channels(*ours)
        fds = [end.fileno() for end in theirs]
        events = self.run_dir.absolute() / STREAM if self.machine.witness else None
        argv = self.machine.argv(lease.guest_id, ChannelFds(*fds), events)
        try:
            process = QemuProcess(argv, self.run_dir / "qemu.log", [*fds, *self.machine.inherited])
        except BaseException:
            channels.close()
            raise
        finally:
            for end in theirs:
                end.close()
        # After the monitor's: it learns of QEMU's end from the descriptor that this closes.
        self._end.callback(process.close)
        self.boot.stages["spawn"] = process.spawned_ns
        monitor = Monitor(
            process,
            channels,
            self.run_dir / "qmp.jsonl",
            self.run_dir / "console.log",
            self.race.notify,
            self.machine.time_scale,
            self._start.console,
        )
        self._end.callback(monitor.close)
        self._end.callback(self._note_boot)
        self._end.callback(process.kill)
        lease.spawned(process.pid)
        control = Control(monitor, self.race, self.ended, self.evidence)
        init = InitPort(monitor, self.race, self.boot, boots=self._start.boots)
        self.live = Live(process, monitor, control, init)
        self._end.callback(self._quit)
        self._end.callback(self.log_out)

    def _await_boot(self) -> None:
        monitor = self._live.monitor
        qmp_ns = self.race.wait(
            "QEMU to speak QMP", lambda: monitor.qmp_ready_ns or None, _QMP_START_S
        )
        self.boot.stages["qmp_ready"] = qmp_ns
        self.ssh_port = self.qmp.forwarded_port()
        self._identity = self._start.bring_up(self, self._boot_deadline_s)

    def _log_in(self, keys: Keys) -> None:
        from harness.guest.ssh.session import SshSession

        self._session = SshSession(self.ssh_port, keys, self.race, deadline_s=_SSH_S)
        # Of the kernel that QEMU started; one that follows it by kexec has stages of its own.
        self.boot.stages.setdefault("ssh_banner", self._session.banner_ns)
        self.boot.stages.setdefault("logged_in", self._session.login_ns)
        expected = {_BOOT_ID: self.boot.ready.boot_id, **self._identity}
        # By the shell itself: a program is a lot of guest code to run for the first time.
        command = "; ".join(f'read -r word < {path}; echo "$word"' for path in expected)
        said = self.run(command, max_output=200, check=False).text.split()
        self.boot.stages.setdefault("first_command", time.monotonic_ns())
        if said != list(expected.values()):
            raise PreconditionError(
                f"the guest behind SSH says of itself {said} ({', '.join(expected)}), the one "
                f"that reported ready {list(expected.values())}"
            )

    def log_out(self) -> None:
        """End the SSH session, if there is one: from here on the host sends the guest nothing.
        Commands need `await_next_kernel` first."""
        if self._session:
            self._session.close()

    def _quit(self) -> None:
        """Ask QEMU to end, so that it can flush; whoever calls kills it if it does not."""
        process = self._live.process
        if process.poll() is None:
            with contextlib.suppress(Exception):  # the answer to any failure is to kill
                self._live.monitor.execute("quit", None)
                process.wait(_QUIT_S)

    def _note_boot(self) -> None:
        # This end has its own error, or none.
        with contextlib.suppress(PreconditionError):
            self.init.note_boot()

    def await_next_kernel(self, since_ns: int, deadline_s: float) -> None:
        """Wait for a kernel that this one started (kexec), and log in to it. `since_ns`: host
        CLOCK_MONOTONIC before it was started. Raises as `run` does."""
        if self._keys is None:
            raise PreconditionError("the guest has no keys to log in with")
        self.init.wait_next_kernel(since_ns, deadline_s)
        self.log_out()
        self._identity = {}  # was in the memory of the kernel before
        self._log_in(self._keys)

    def wait_shutdown(self, *, deadline_s: float) -> None:
        """Wait until QEMU has ended because the guest powered off. Raises if it ends otherwise."""
        self.end_expected = True
        monitor = self._live.monitor
        end = self.race.wait("the guest to power off", lambda: monitor.exit, deadline_s)
        if end.shutdown_reason != "guest-shutdown":
            raise self.no_poweroff()

    # Commands in the guest.

    def start(
        self, command: str | Sequence[str], **options: Unpack[StartOptions]
    ) -> RunningCommand:
        """Start a command as root over SSH, in the background; its stdin stays open until `stop`.
        A sequence is run without a shell's interpretation; text is given to it."""
        return self._ssh.start(command, **options)

    def run(
        self,
        command: str | Sequence[str],
        *,
        deadline_s: float = 60.0,
        check: bool = True,
        **options: Unpack[StartOptions],
    ) -> CommandResult:
        """Run a command to its end. Raises CommandFailed if `check` and the exit status is not 0,
        and what the race raises."""
        running = self._ssh.start(command, hold_stdin=False, **options)
        try:
            return running.wait(deadline_s, check=check)
        finally:
            running.abandon()

    def stock_ssh(self) -> list[str]:
        """The stock ssh client's command line for this guest: add what to run there."""
        from harness.guest.ssh.session import ssh_command

        return ssh_command(self.ssh_port, require_started(self._keys))

    def put(self, source: Path | bytes, remote: str, *, deadline_s: float = 60.0) -> None:
        """Write a file in the guest, from a local one or from bytes."""
        data = source if isinstance(source, bytes) else source.read_bytes()
        self.run(f"cat > {shlex.quote(remote)}", input=data, deadline_s=deadline_s)

    def get(self, remote: str, max_bytes: int = 256 << 20, *, deadline_s: float = 60.0) -> bytes:
        """A guest file's bytes. Raises PreconditionError if there are more than `max_bytes`."""
        result = self.run(["cat", "--", remote], max_output=max_bytes, deadline_s=deadline_s)
        if result.stdout_dropped:
            size = len(result.stdout) + result.stdout_dropped
            raise PreconditionError(
                f"the guest's file {remote} has {size} bytes, more than the {max_bytes} allowed"
            )
        return result.stdout

    # What is known of it.

    def wait(self, what: str, probe: Callable[[], T | None], *, deadline_s: float) -> T:
        """Race `probe` against QEMU's end, a panic and the deadline. See harness.guest.wait."""
        return self.race.wait(what, probe, deadline_s)

    # Parts that are there in a guest that was entered.

    @property
    def pid(self) -> int:
        return self._live.process.pid

    @property
    def qmp(self) -> Control:
        return self._live.control

    @property
    def init(self) -> InitPort:
        return self._live.init

    @property
    def _live(self) -> Live:
        return require_started(self.live)

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
def _sweep_once() -> None:
    sweep()
