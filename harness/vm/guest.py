# SPDX-License-Identifier: MIT
"""A guest's whole life: spawn, boot, commands, death. Nothing of it outlives the `with` block."""

from __future__ import annotations

import contextlib
import functools
import socket
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar

from harness.status import GuestFailure, HarnessError, HostError, PreconditionError
from harness.stock_ssh import ssh_command
from harness.vm import verdict
from harness.vm.boot import BootRecord, parse_init, parse_ready
from harness.vm.console import Kind, Splat, unexpected
from harness.vm.lease import Lease, sweep
from harness.vm.machine import ChannelFds, Machine
from harness.vm.monitor import Channels, Event, Monitor
from harness.vm.process import QemuProcess
from harness.vm.ready import GuestMessage
from harness.vm.snapshot import OpenSnapshot
from harness.vm.snapshot_restore import NONCE_PATH, restore
from harness.vm.usernet import forwarded_port
from harness.vm.wait import Expired, Race, Verdict

if TYPE_CHECKING:
    from harness.ssh import GuestKeys, Session
    from harness.ssh_commands import CommandResult, RunningCommand

T = TypeVar("T")

_QMP_START_S = 20.0
_QMP_S = 10.0
_SSH_S = 20.0
_PING_S = 3.0
_QUIT_S = 3.0
_TAIL_LINES = 15
_HALT_LINES = 100
"""The registers of a CPU come after what QEMU says of it."""
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
        snapshot: OpenSnapshot | None = None,
    ) -> None:
        """Nothing is started yet. Deadlines are multiplied by `machine.time_scale`.

        Without `keys` nobody logs in: for a template that is to be saved. With `snapshot` the guest
        is restored from it, and `machine` is the one that waits for it (snapshot_machine.restored).
        """
        self.machine = machine
        self.run_dir = run_dir
        self.boot = BootRecord()
        self.ssh_port = 0
        """Host port of the guest's sshd on 127.0.0.1."""
        self.expected_splats: frozenset[Kind] = frozenset()
        """Kinds that the workload asks for, e.g. {Kind.OOM}; `check` passes over them."""
        self._keys = keys
        self._boot_deadline_s = boot_deadline_s + machine.accept_at_boot_s
        self._snapshot = snapshot
        self._nonce = ""
        self._ended_on_purpose = False
        self._lease: Lease | None = None
        self._process: QemuProcess | None = None
        self._monitor: Monitor | None = None
        self._session: Session | None = None
        self._race = Race(
            self._verdict,
            evidence=self._evidence,
            judge=self._judge,
            time_scale=machine.time_scale,
        )

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
        argv = self.machine.argv(self._lease.guest_id, ChannelFds(*fds))
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
            self._snapshot.console if self._snapshot else b"",
        )
        self._lease.spawned(self._process.pid)

    def _await_boot(self) -> None:
        monitor = self._heard
        qmp_ns = self._race.wait(
            "QEMU to speak QMP", lambda: monitor.qmp_ready_ns or None, _QMP_START_S
        )
        self.boot.stages["qmp_ready"] = qmp_ns
        self.ssh_port = self._find_port()
        if self._snapshot:
            self._nonce = restore(self, self._snapshot.manifest, self._snapshot.state)
        else:
            self.await_message("ready", self._boot_deadline_s)
            self._note_boot()

    def await_message(self, event: str, deadline_s: float) -> GuestMessage:
        """The guest's first message of a kind. Raises PreconditionError if it talks nonsense."""
        monitor = self._heard

        def heard() -> bool | None:
            return bool(monitor.message(event)) or (False if monitor.rejected else None)

        self._race.wait(f"the guest's {event} message", heard, deadline_s)
        found = monitor.message(event)
        if found is None:
            self._note_boot()
            raise self._race.explain(
                PreconditionError(f"the guest sent an unreadable message: {monitor.rejected}")
            )
        return found

    def tell(self, line: str) -> None:
        """Send a line to the guest's init. Raises HostError if the port takes nothing."""
        if not self._heard.tell(line):
            raise self._race.explain(HostError("the guest's ready port takes no commands"))

    def _note_boot(self) -> None:
        """Put on record how far the boot has come."""
        if self._snapshot:
            return  # its boot was the template's
        monitor, boot = self._heard, self.boot
        if monitor.first_byte_ns:
            boot.stages["kernel_start"] = monitor.first_byte_ns
        if init := monitor.message("init"):
            boot.stages["init"] = init.host_ns
            boot.init = parse_init(init)
        if ready := monitor.message("ready"):
            boot.stages["ready"] = ready.host_ns
            boot.ready = parse_ready(ready)

    def _find_port(self) -> int:
        answer = self.hmp("info usernet")
        try:
            return forwarded_port(answer)
        except ValueError as error:
            raise HostError(str(error)) from error

    def _log_in(self, keys: GuestKeys) -> None:
        from harness.ssh import Session

        self._session = Session(self.ssh_port, keys, self._race, deadline_s=_SSH_S)
        # Of the kernel that QEMU started; one that follows it by kexec has stages of its own.
        self.boot.stages.setdefault("ssh_banner", self._session.banner_ns)
        # Guests restored from one snapshot share a boot id: there the nonce tells them apart.
        expected = {_BOOT_ID: self.boot.ready.boot_id}
        if self._nonce:
            expected[NONCE_PATH] = self._nonce
        command = "; ".join(f"cat {path}; echo" for path in expected)
        said = self.run(command, max_output=200, check=False).text.split()
        self.boot.stages.setdefault("first_command", time.monotonic_ns())
        if said != list(expected.values()):
            raise PreconditionError(
                f"the guest behind SSH says of itself {said} ({', '.join(expected)}), the one "
                f"that reported ready {list(expected.values())}"
            )

    def _end(self) -> None:
        self._ended_on_purpose = True
        with contextlib.ExitStack() as stack:  # runs all of it, whatever any of it raises
            if self._lease:
                stack.callback(self._lease.release)
            if self._process:
                # Last: the monitor learns of QEMU's end from the descriptor that this closes.
                stack.callback(self._process.close)
            if self._monitor:
                stack.callback(self._monitor.close)
                stack.callback(self._note_boot_quietly)
            if self._process:
                stack.callback(self._process.kill)
                stack.callback(self._quit)
            if self._session:
                stack.callback(self._session.close)

    def _note_boot_quietly(self) -> None:
        with contextlib.suppress(PreconditionError):
            self._note_boot()

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
        monitor = self._heard
        if self._keys is None:
            raise PreconditionError("the guest has no keys to log in with")
        ready = self._race.wait(
            "the next kernel's ready message",
            lambda: monitor.message("ready", since_ns),
            deadline_s,
        )
        self.boot.ready = parse_ready(ready)
        if init := monitor.message("init", since_ns):
            self.boot.init = parse_init(init)
        if self._session:
            self._session.close()
        self._nonce = ""  # lay in the memory of the kernel before
        self._log_in(self._keys)

    def poweroff(self, deadline_s: float = 30.0) -> None:
        """Have the guest's init power it off; wait for QEMU's end. Raises GuestFailure."""
        self._ended_on_purpose = True
        self.tell("poweroff")
        self.wait_shutdown(deadline_s=deadline_s)

    def wait_shutdown(self, *, deadline_s: float) -> None:
        """Wait until QEMU has ended because the guest powered off. Raises if it ends otherwise."""
        self._ended_on_purpose = True
        monitor = self._heard
        end = self._race.wait("the guest to power off", lambda: monitor.exit, deadline_s)
        if end.shutdown_reason != "guest-shutdown":
            why = verdict.on_exit(end, self._qemu.said(), asked=False)
            raise self._explained(why)

    def kill(self) -> None:
        """SIGKILL QEMU and wait for its end."""
        self._ended_on_purpose = True
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
        """Run a command as root over SSH. See harness.ssh.Session.run."""
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
        """Start a command in the background. See harness.ssh.Session.start."""
        return self._ssh.start(command, input=input, max_output=max_output, on_stdout=on_stdout)

    def stock_ssh(self) -> list[str]:
        """The stock ssh client's command line for this guest. See harness.stock_ssh."""
        keys = _there(self._keys)
        return ssh_command(self.ssh_port, keys.client_key, keys.host_public_key)

    def put(self, source: Path | bytes, remote: str, *, deadline_s: float = 60.0) -> None:
        """Write a file in the guest."""
        self._ssh.put(source, remote, deadline_s=deadline_s)

    def get(self, remote: str, max_bytes: int = 256 << 20, *, deadline_s: float = 60.0) -> bytes:
        """A guest file's bytes. Raises PreconditionError if there are more than `max_bytes`."""
        return self._ssh.get(remote, max_bytes, deadline_s=deadline_s)

    # QEMU.

    def qmp(
        self,
        command: str,
        arguments: Mapping[str, object] | None = None,
        *,
        deadline_s: float = _QMP_S,
    ) -> object:
        """A QMP command's return value. Raises HostError if QEMU refuses it or does not answer."""
        return self._answer(command, lambda: self._heard.execute(command, arguments), deadline_s)

    def give(self, descriptor: int, name: str) -> None:
        """Let QEMU have a descriptor of ours as `name`. Raises HostError as `qmp` does."""
        self._answer("getfd", lambda: self._heard.give(descriptor, name), _QMP_S)

    def _answer(self, command: str, ask: Callable[[], Future[object]], deadline_s: float) -> object:
        from harness.vm.qmp import ExecuteError, QMPError

        monitor = self._heard
        try:
            future = ask()
            # A panicked guest's QEMU still answers: only its end ends the wait.
            self._quiet_race.wait(
                f"QEMU's answer to {command}", lambda: future.done() or None, deadline_s
            )
            return future.result()
        except ExecuteError as error:
            raise HostError(f"QEMU refused {command}: {error}") from error
        except (QMPError, OSError, EOFError) as error:
            self._race.poll(f"QEMU's answer to {command}", lambda: monitor.exit and None, 1.0)
            raise HostError(f"QMP is gone: {type(error).__name__}: {error}") from error

    def hmp(self, line: str, *, deadline_s: float = _QMP_S) -> str:
        """What the human monitor prints for `line`: for what QMP has no command."""
        answer = self.qmp("human-monitor-command", {"command-line": line}, deadline_s=deadline_s)
        return str(answer)

    def wait_event(
        self,
        name: str,
        predicate: Callable[[Event], bool] | None = None,
        *,
        deadline_s: float,
    ) -> Event:
        """The oldest QMP event that fits and was not taken before; it may have come already."""
        return self._race.wait(
            f"QEMU's event {name}", lambda: self._heard.take_event(name, predicate), deadline_s
        )

    def take_event(
        self, name: str, predicate: Callable[[Event], bool] | None = None
    ) -> Event | None:
        """As `wait_event`, without waiting: for a `probe` that looks for one of several."""
        return self._heard.take_event(name, predicate)

    def wait(self, what: str, probe: Callable[[], T | None], *, deadline_s: float) -> T:
        """Race `probe` against QEMU's end, a panic and the deadline. See harness.vm.wait."""
        return self._race.wait(what, probe, deadline_s)

    # Verdicts.

    @property
    def pid(self) -> int:
        """QEMU's process."""
        return self._qemu.pid

    @property
    def splats(self) -> tuple[Splat, ...]:
        """What the kernel complained of on the console so far."""
        return self._monitor.splats if self._monitor else ()

    def check(self, expected: Iterable[Kind] = ()) -> None:
        """Raise GuestFailure for the first splat that neither `expected` nor the guest expects."""
        self.check_emulator()
        found = unexpected(self.splats, self.expected_splats | frozenset(expected))
        if found:
            more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
            raise GuestFailure(
                f"the guest's kernel reported {found[0].describe()}{more}",
                details=(*found[0].context, *self._where()),
            )

    def check_emulator(self) -> None:
        """Raise EmulatorFlaw where what the kernel complained of is QEMU's own doing."""
        if flaw := self._flaw():
            raise self._explained(flaw)

    def _explained(self, found: Verdict) -> HarnessError:
        return self._race.explain(found.error(found.cause, hint=found.hint, details=found.details))

    def _flaw(self) -> Verdict | None:
        return verdict.on_stale_code(self.splats) if self.machine.stale_code else None

    def answers(self, deadline_s: float = _PING_S) -> bool:
        """Whether the guest's init answers on the ready port: its userspace gets to run."""
        return self.status(deadline_s) is not None

    def status(self, deadline_s: float = _PING_S) -> GuestMessage | None:
        """A fresh "ready" message from the guest's init; None if it does not answer in time."""
        asked_ns = time.monotonic_ns()
        monitor = self._heard
        if not monitor.tell("status"):
            return None
        return self._race.poll(
            "the guest's init to answer", lambda: monitor.message("ready", asked_ns), deadline_s
        )

    def _verdict(self) -> Verdict | None:
        monitor = self._monitor
        if monitor is None:
            return None
        if monitor.exit is None and monitor.halted:
            return verdict.on_halt(monitor.halted, self._qemu.said(_HALT_LINES))
        if monitor.exit is None and Kind.PANIC in self.expected_splats:
            return None  # a crash kernel takes over from a panic
        if monitor.panicked or (monitor.exit and monitor.fatal):
            return self._flaw() or verdict.on_panic(monitor.fatal)
        return self._exit_verdict()

    def _exit_verdict(self) -> Verdict | None:
        if self._monitor is None or self._monitor.exit is None:
            return None
        return verdict.on_exit(self._monitor.exit, self._qemu.said(), asked=self._ended_on_purpose)

    def _judge(self, error: HarnessError) -> HarnessError:
        """What a deadline that passed, or a broken connection, says about the guest."""
        if flaw := self._flaw():
            return self._explained(flaw)
        if not isinstance(error, Expired):  # the SSH connection broke, and no better cause came
            if bad := unexpected(self.splats, self.expected_splats):  # e.g. the OOM killer took it
                return self._race.explain(
                    GuestFailure(f"{bad[0].describe()}; {error.cause}", details=bad[0].context)
                )
            healthy = "healthy: its init answers" if self.answers() else "silent as well"
            error.cause = f"{error.cause}; the guest is {healthy}"
            return self._race.explain(error)
        if "ready" not in self.boot.stages:
            self._note_boot()
        state = self._diagnose()
        if "qmp_ready" not in self.boot.stages:
            return self._race.explain(HostError(f"QEMU does not answer: {error.cause}"))
        if "ready" not in self.boot.stages:
            stage = list(self.boot.stages)[-1]
            return self._race.explain(
                GuestFailure(
                    f"the guest hung: {error.cause}; the last stage it reached is {stage}",
                    details=state,
                )
            )
        if self.answers():
            return self._race.explain(
                PreconditionError(f"{error.cause}; the guest is alive otherwise", details=state)
            )
        return self._race.explain(
            GuestFailure(f"the guest hung: {error.cause}, and its init is silent", details=state)
        )

    def _diagnose(self) -> tuple[str, ...]:
        """QEMU's view of a guest that does not get on; the registers go to hang.txt."""
        if not self._heard.qmp_ready_ns or self._heard.exit:
            return ()
        try:
            status = self.qmp("query-status")
            registers = [self.hmp("info registers -a") for _ in range(2)]
        except HarnessError as error:
            return (f"QEMU did not tell the guest's state: {error.cause}",)
        path = self.run_dir / "hang.txt"
        path.write_text(f"{status}\n\n" + "\n\n".join(registers))
        name = status.get("status") if isinstance(status, dict) else status
        return (f"QEMU says the guest is {name}; its registers, read twice, are in {path}",)

    def _evidence(self) -> tuple[str, ...]:
        if self._monitor is None:
            return self._where()
        tail = self._monitor.tail(_TAIL_LINES)
        return (*(("last console lines:", *tail) if tail else ()), *self._where())

    def _where(self) -> tuple[str, ...]:
        return (f"run directory: {self.run_dir}",)

    # Parts that are there in a guest that was entered.

    @functools.cached_property
    def _quiet_race(self) -> Race:
        """Waits that a panic does not end, and whose deadline is QEMU's fault."""
        return Race(
            self._exit_verdict,
            evidence=self._evidence,
            judge=lambda error: HostError(f"QEMU does not answer: {error.cause}"),
            time_scale=self.machine.time_scale,
            changes=self._race.changes,
        )

    @property
    def _heard(self) -> Monitor:
        return _there(self._monitor)

    @property
    def _qemu(self) -> QemuProcess:
        return _there(self._process)

    @property
    def _ssh(self) -> Session:
        return _there(self._session)


def _there(part: T | None) -> T:
    if part is None:
        raise RuntimeError("the guest has not been entered")
    return part


def _import_ssh() -> None:
    import harness.ssh  # noqa: F401


@functools.cache
def _sweep_once() -> tuple[str, ...]:
    return tuple(sweep())
