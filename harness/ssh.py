# SPDX-License-Identifier: MIT
"""One SSH session to one guest: commands with deadlines, both streams drained, files.

Every wait goes through the guest's Race, so a command is given up at once when QEMU dies or the
guest panics. The host key is pinned; the client key is the guest image's own.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import paramiko
import tenacity
from paramiko.common import cMSG_CHANNEL_REQUEST

from harness.status import HarnessError, HostError, PreconditionError
from harness.vm.text import printable
from harness.vm.wait import Race, Timer

USER = "root"
DEFAULT_MAX_OUTPUT = 8 << 20
"""Bytes kept of each stream of a command; the rest is counted and dropped."""
MAX_FILE = 256 << 20
"""Bytes of a file that `get` takes at most unless told otherwise."""

_SETUP_S = 10.0
"""To open a channel and start a command in it. Scaled like every deadline."""
_BANNER_S = 2.0
_CLOSE_S = 2.0
_CHUNK = 64 * 1024
_DRAIN_AT_ONCE = 16
_INLINE_INPUT = 8 * 1024
"""Below dropbear's first window (DEFAULT_RECV_WINDOW, 24 KiB): sending it does not block."""
_NO_STATUS = -1
"""What paramiko reports when the server sent no exit status: the command died of a signal."""


@dataclass(frozen=True)
class GuestKeys:
    """What it takes to log in to a guest, and to know that it is the one."""

    client_key: Path
    """An RSA private key in OpenSSH format that the guest's root accepts."""
    host_public_key: str
    """The guest's host key: "ssh-ed25519 AAAA…"."""


@dataclass(frozen=True)
class CommandResult:
    """What a command came to."""

    stdout: bytes
    stderr: bytes
    exit_status: int
    """As the shell has it; -1 if the server reported none (the command died of a signal)."""
    elapsed_ns: int
    """Host time from the request to the end of both streams."""
    stdout_dropped: int = 0
    """Bytes past max_output."""
    stderr_dropped: int = 0

    @property
    def truncated(self) -> bool:
        """Whether some output was dropped."""
        return bool(self.stdout_dropped or self.stderr_dropped)

    @property
    def text(self) -> str:
        """stdout as text; bad UTF-8 is escaped."""
        return self.stdout.decode("utf-8", "backslashreplace")


class CommandFailed(PreconditionError):
    """A command that had to succeed did not. ERROR: what it was for cannot be judged."""

    def __init__(self, command: str, result: CommandResult) -> None:
        how = (
            f"exit status {result.exit_status}"
            if result.exit_status != _NO_STATUS
            else "no exit status (killed by a signal)"
        )
        said = (result.stderr or result.stdout).strip().splitlines()[-10:]
        super().__init__(
            f"in the guest, {command!r} ended with {how}", details=map(printable, said)
        )
        self.result = result


class ConnectionLost(HostError):
    """The SSH connection ended under a command. The race's judge says what that means."""


class _Edge(Exception):
    """Nobody serves SSH on the port yet."""


class _Bell(threading.Event):
    """A channel sets this when it has data or ends; it wakes the waiters of the race."""

    def __init__(self, race: Race) -> None:
        super().__init__()
        self._race = race

    def set(self) -> None:
        super().set()
        self._race.notify()


class Session:
    """One connection. Any number of commands at a time, from any thread."""

    def __init__(self, port: int, keys: GuestKeys, race: Race, *, deadline_s: float = 20.0) -> None:
        """Connect to 127.0.0.1:`port`. Raises HostError, or the race's verdict."""
        self.banner_ns = 0
        """When the server's banner was there, host CLOCK_MONOTONIC."""
        self._race = race
        self._port = port
        self._running: set[RunningCommand] = set()
        self._closed = False
        self._socket: socket.socket | None = None
        self._transport: paramiko.Transport | None = None
        try:
            race.call("the SSH connection", lambda: self._connect(keys), deadline_s, self._drop)
        except (paramiko.SSHException, OSError, EOFError, ValueError, _Edge) as error:
            self._drop()
            raise race.judge(
                ConnectionLost(f"cannot log in to the guest: {type(error).__name__}: {error}")
            ) from error
        except BaseException:
            self._drop()
            raise

    # Making and ending the connection.

    def _connect(self, keys: GuestKeys) -> None:
        host_key = _parse_host_key(keys.host_public_key)
        client_key = paramiko.RSAKey.from_private_key_file(str(keys.client_key))
        self._socket = self._knock()
        self.banner_ns = time.monotonic_ns()
        transport = self._transport = paramiko.Transport(self._socket)
        transport.daemon = True
        # The cheapest that both sides know: the guest computes them in emulated instructions.
        options = transport.get_security_options()
        options.kex = ("curve25519-sha256@libssh.org",)
        options.ciphers = ("aes128-ctr",)
        options.digests = ("hmac-sha2-256",)
        options.key_types = ("ssh-ed25519",)
        transport.start_client(timeout=_SETUP_S * self._race.time_scale)
        if transport.get_remote_server_key().asbytes() != host_key.asbytes():
            raise paramiko.SSHException("the server's key is not the guest's: not our guest")
        transport.auth_publickey(USER, client_key)

    def _knock(self) -> socket.socket:
        """A connected socket on which the server's banner waits to be read.

        QEMU's user network accepts before the guest does, and hangs up if nobody listens there.
        """
        retry = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type((_Edge, OSError)),
            stop=tenacity.stop_after_delay(_SETUP_S * self._race.time_scale),
            wait=tenacity.wait_fixed(0.02),
            before=lambda _: self._refuse_if_closed(),
            reraise=True,
        )
        return retry(self._knock_once)

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise EOFError("given up")

    def _knock_once(self) -> socket.socket:
        attempt = socket.create_connection(
            ("127.0.0.1", self._port), timeout=_BANNER_S * self._race.time_scale
        )
        self._socket = attempt
        try:
            attempt.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if attempt.recv(4, socket.MSG_PEEK) != b"SSH-":
                raise _Edge("no SSH banner")
        except BaseException:
            attempt.close()
            raise
        return attempt

    def _drop(self) -> None:
        self._closed = True
        if self._transport:
            _bounded(self._transport.close)
        if self._socket:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)
            self._socket.close()

    def close(self) -> None:
        """End all commands and the connection. Never raises; may be called more than once."""
        self._drop()
        for command in list(self._running):
            command.join()
        if self._transport:
            self._transport.join(timeout=2.0)

    @property
    def alive(self) -> bool:
        """Whether the connection stands, as far as is known."""
        return self._transport is not None and self._transport.is_active()

    # Commands.

    def run(
        self,
        command: str | Sequence[str],
        *,
        deadline_s: float = 60.0,
        input: bytes | None = None,
        check: bool = True,
        max_output: int = DEFAULT_MAX_OUTPUT,
        on_stdout: Callable[[bytes], None] | None = None,
    ) -> CommandResult:
        """Run to the end. A sequence is run without a shell's interpretation; text is given to it.

        `on_stdout` gets each piece as it comes, in this thread. Raises CommandFailed if `check` and
        the exit status is not 0, and what the race raises.
        """
        line = command_line(command)
        with self._channel(line, _Output(max_output, on_stdout), deadline_s, input) as drain:
            result = drain.run()
        if check and result.exit_status != 0:
            raise CommandFailed(line, result)
        return result

    def start(
        self,
        command: str | Sequence[str],
        *,
        input: bytes | None = None,
        max_output: int = DEFAULT_MAX_OUTPUT,
        on_stdout: Callable[[bytes], None] | None = None,
    ) -> RunningCommand:
        """Start a command that runs while others do. `on_stdout` is called in a thread of its own.

        Its stdin stays open until `stop`, so a command may take the end of stdin as its sign.
        """
        return RunningCommand(self, command_line(command), _Output(max_output, on_stdout), input)

    def put(self, source: Path | bytes, remote: str, *, deadline_s: float = 60.0) -> None:
        """Write a guest file, from a local one or from bytes."""
        data = source if isinstance(source, bytes) else source.read_bytes()
        self.run(f"cat > {shlex.quote(remote)}", input=data, deadline_s=deadline_s)

    def get(self, remote: str, max_bytes: int = MAX_FILE, *, deadline_s: float = 60.0) -> bytes:
        """A guest file's bytes. Raises PreconditionError if there are more than `max_bytes`."""
        result = self.run(["cat", "--", remote], max_output=max_bytes, deadline_s=deadline_s)
        if result.stdout_dropped:
            size = len(result.stdout) + result.stdout_dropped
            raise PreconditionError(
                f"the guest's file {remote} has {size} bytes, more than the {max_bytes} allowed"
            )
        return result.stdout

    @contextlib.contextmanager
    def _channel(
        self,
        line: str,
        output: _Output,
        deadline_s: float | None,
        input: bytes | None,
        *,
        hold_stdin: bool = False,
    ) -> Iterator[_Drain]:
        opened: list[paramiko.Channel] = []
        transport = self._transport
        assert transport is not None

        def open_and_exec() -> paramiko.Channel:
            channel = transport.open_session(timeout=_SETUP_S * self._race.time_scale)
            opened.append(channel)
            channel.exec_command(line)
            return channel

        def abandon() -> None:
            for channel in opened:
                channel.close()

        started_ns = time.monotonic_ns()
        try:
            try:
                channel = self._race.call(
                    f"the guest to start {_short(line)}", open_and_exec, _SETUP_S, abandon
                )
            except (paramiko.SSHException, OSError, EOFError) as error:
                raise self._lost(line, str(error) or type(error).__name__) from error
            timer = Timer(self._race, f"the end of {_short(line)}", deadline_s)
            drain = _Drain(self, channel, line, output, timer, started_ns)
            feeder = drain.feed(input, hold_stdin)
            yield drain
            if feeder:
                feeder.join()
        finally:
            _bounded(abandon)

    def _lost(self, line: str, why: str) -> HarnessError:
        """The error for a connection that broke, after a moment for a better cause to show."""
        what = f"the end of {_short(line)}"
        self._race.poll(f"{what}, when the SSH connection broke", lambda: None, 1.0)
        return self._race.judge(
            ConnectionLost(f"the SSH connection broke ({why}) while waiting for {what}")
        )


class _Output:
    """Where a command's output goes: bounded buffers, and the listener."""

    def __init__(self, limit: int, on_stdout: Callable[[bytes], None] | None) -> None:
        self.kept = (bytearray(), bytearray())
        self.dropped = [0, 0]
        self._limit = limit
        self._on_stdout = on_stdout

    def take(self, stream: int, data: bytes) -> None:
        kept = self.kept[stream]
        room = max(0, self._limit - len(kept))
        kept += data[:room]
        self.dropped[stream] += max(0, len(data) - room)
        if stream == 0 and self._on_stdout:
            self._on_stdout(data)


class _Drain:
    """One command under way: takes both streams as they come, until both have ended."""

    def __init__(
        self,
        session: Session,
        channel: paramiko.Channel,
        line: str,
        output: _Output,
        timer: Timer,
        started_ns: int,
    ) -> None:
        self.channel = channel
        self._session = session
        self._line = line
        self._output = output
        self._timer = timer
        self._started_ns = started_ns
        bell = _Bell(session._race)
        channel.in_buffer.set_event(bell)
        channel.in_stderr_buffer.set_event(bell)

    def feed(self, data: bytes | None, hold_stdin: bool) -> threading.Thread | None:
        """Send stdin: at once what fits the first window, else beside the draining."""
        if data is None or len(data) <= _INLINE_INPUT:
            self._send(data or b"", hold_stdin)
            return None
        thread = threading.Thread(
            target=self._send, args=(data, hold_stdin), name="cvm-stdin", daemon=True
        )
        thread.start()
        return thread

    def _send(self, data: bytes, hold_stdin: bool) -> None:
        # The channel may end first: a command need not read its input.
        with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
            self.channel.sendall(data)
            if not hold_stdin:
                self.channel.shutdown_write()

    def run(self) -> CommandResult:
        """Drain to the end. Raises what the race raises."""
        channel = self.channel
        while True:
            # Asked before draining: what came before the end is then in the buffers.
            finished = self._finished()
            moved = self._move()
            if moved:
                self._timer.check()
            elif finished:
                break
            else:
                self._timer.wait(lambda: self._ready() or None)
        elapsed_ns = time.monotonic_ns() - self._started_ns
        if channel.exit_status == _NO_STATUS and not self._session.alive:
            raise self._session._lost(self._line, "connection closed")
        kept, dropped = self._output.kept, self._output.dropped
        return CommandResult(
            bytes(kept[0]), bytes(kept[1]), channel.exit_status, elapsed_ns, *dropped
        )

    def _finished(self) -> bool:
        channel = self.channel
        return bool(channel.closed or (channel.eof_received and channel.exit_status_ready()))

    def _ready(self) -> bool:
        channel = self.channel
        return channel.recv_ready() or channel.recv_stderr_ready() or self._finished()

    def _move(self) -> bool:
        moved = False
        for _ in range(_DRAIN_AT_ONCE):
            before = moved
            if self.channel.recv_ready():
                self._output.take(0, self.channel.recv(_CHUNK))
                moved = True
            if self.channel.recv_stderr_ready():
                self._output.take(1, self.channel.recv_stderr(_CHUNK))
                moved = True
            if moved == before:
                break
        return moved


class RunningCommand:
    """A command that runs in the background, drained by a thread of its own."""

    def __init__(self, session: Session, line: str, output: _Output, input: bytes | None) -> None:
        self.line = line
        self._session = session
        self._result: CommandResult | None = None
        self._error: BaseException | None = None
        self._drain: _Drain | None = None
        self._done = False
        self._thread = threading.Thread(
            target=self._work, args=(output, input), name=f"cvm-command {_short(line)}", daemon=True
        )
        session._running.add(self)
        self._thread.start()
        self._wait(lambda: True if self._drain or self._done else None, _SETUP_S)
        if self._error:
            raise self._error

    @property
    def running(self) -> bool:
        """Whether it has not ended yet."""
        return not self._done

    def wait(self, deadline_s: float = 60.0, *, check: bool = True) -> CommandResult:
        """Its result once it has ended by itself. Raises as Session.run."""
        self._wait(lambda: self._done or None, deadline_s)
        self.join()
        if self._error:
            raise self._error
        assert self._result is not None
        if check and self._result.exit_status != 0:
            raise CommandFailed(self.line, self._result)
        return self._result

    def stop(self, grace_s: float = 5.0) -> CommandResult:
        """End its stdin and send it SIGTERM, then SIGKILL after `grace_s`; its result.

        The signal goes to the process that the guest's shell runs in: give `start` a sequence, or
        `exec` the command that matters. Raises if the command had failed to run.
        """
        for signal_name in ("TERM", "KILL"):
            if self._done:
                break
            self._signal(signal_name)
            self._session._race.poll(
                f"{_short(self.line)} to stop", lambda: self._done or None, grace_s
            )
        if not self._done and self._drain:
            self._drain.channel.close()
        return self.wait(grace_s, check=False)

    def join(self) -> None:
        """Wait for the draining thread; the channel must have ended or been closed."""
        self._thread.join(timeout=5.0)
        self._session._running.discard(self)

    def _work(self, output: _Output, input: bytes | None) -> None:
        try:
            with self._session._channel(self.line, output, None, input, hold_stdin=True) as drain:
                self._drain = drain
                self._session._race.notify()
                self._result = drain.run()
        except BaseException as error:
            self._error = error
        self._done = True
        self._session._race.notify()

    def _wait(self, probe: Callable[[], bool | None], deadline_s: float) -> None:
        # A verdict that ends the wait also ends the thread, with the same cause.
        self._session._race.wait(f"{_short(self.line)}", probe, deadline_s)

    def _signal(self, name: str) -> None:
        """RFC 4254 section 6.9; dropbear honours it (svr-chansession.c), paramiko has no call."""
        drain, transport = self._drain, self._session._transport
        if not drain or not transport:
            return
        message = paramiko.Message()
        message.add_byte(cMSG_CHANNEL_REQUEST)
        message.add_int(drain.channel.remote_chanid)
        message.add_string("signal")
        message.add_boolean(False)
        message.add_string(name)
        with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
            drain.channel.shutdown_write()
            transport._send_user_message(message)  # type: ignore[attr-defined]


def _bounded(close: Callable[[], None]) -> None:
    """Close something of paramiko's, and do not wait for that for ever.

    A Ctrl-C may come between paramiko's taking a lock and the `try` that gives it back
    (BufferedPipe, Channel): whoever wants that lock afterwards waits in vain.
    """
    thread = threading.Thread(target=close, name="cvm-close", daemon=True)
    thread.start()
    thread.join(_CLOSE_S)


def command_line(command: str | Sequence[str]) -> str:
    """What the guest's shell gets. A sequence replaces the shell, so that signals reach it."""
    if isinstance(command, str):
        return command
    return "exec " + shlex.join(map(os.fspath, command))


def _short(line: str) -> str:
    one = printable(line.encode())
    return repr(one if len(one) <= 80 else one[:77] + "...")


def _parse_host_key(text: str) -> paramiko.PKey:
    import base64

    kind, _, rest = text.strip().partition(" ")
    if kind != "ssh-ed25519":
        raise ValueError(f"the guest's host key is {kind!r}, not ssh-ed25519")
    return paramiko.Ed25519Key(data=base64.b64decode(rest.split()[0]))
