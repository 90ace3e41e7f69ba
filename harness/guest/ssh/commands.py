# SPDX-License-Identifier: MIT
"""Commands in a guest over a paramiko channel: both streams drained, bounded, with deadlines.

A thread of its own does all that a command asks of paramiko. A Ctrl-C reaches the main thread
wherever it is, also between paramiko's taking a lock and the `try` that gives it back
(BufferedPipe, Channel); whoever wants that lock afterwards, the transport's thread above all, waits
in vain.
"""

import contextlib
import functools
import os
import shlex
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

import paramiko
from paramiko.common import cMSG_CHANNEL_CLOSE, cMSG_CHANNEL_REQUEST

from harness.base.status import HarnessError, PreconditionError
from harness.base.text import printable
from harness.guest.wait import Race

MAX_OUTPUT = 8 << 20
"""Bytes kept of each stream of a command unless told otherwise."""
SETUP_S = 10.0
"""To open a channel and start a command in it. Scaled like every deadline."""

_CLOSE_S = 2.0
_JOIN_S = 5.0
_CHUNK = 64 * 1024
_DRAIN_AT_ONCE = 16
_INLINE_INPUT = 8 * 1024
"""Below dropbear's first window (DEFAULT_RECV_WINDOW, 24 KiB): sending it does not block."""
_NO_STATUS = -1
"""What paramiko reports when the server sent no exit status: the command died of a signal."""


@dataclass(frozen=True)
class CommandResult:
    stdout: bytes
    stderr: bytes
    exit_status: int
    """As the shell has it; -1 if the server reported none (the command died of a signal)."""
    elapsed_ns: int
    """Host time from the request to the end of both streams."""
    stdout_dropped: int = 0
    """Bytes past `max_output`."""
    stderr_dropped: int = 0

    @property
    def text(self) -> str:
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


class Bell(threading.Event):
    """A channel sets this when it has data or ends; it wakes the waiters of the race."""

    def __init__(self, race: Race) -> None:
        super().__init__()
        self._race = race

    def set(self) -> None:
        super().set()
        self._race.notify()


class CloseGuard:
    """The transport as one channel sees it: drops what that channel sends after its CLOSE.

    Threads of paramiko 5.1's hold a channel's lock to make a message and send it after giving the
    lock back (Channel.shutdown_write, .sendall, .recv). If the command ends just then, the
    transport's thread answers the server's CLOSE first. To dropbear that was the channel's end
    (RFC 4254 section 5.3), and for what comes late it ends the connection with all that runs over
    it: "Exit (root): Unknown channel 0" (getchannel_msg() in common-channel.c, 2022.83).
    """

    def __init__(self, transport: paramiko.Transport) -> None:
        self._transport = transport
        self._order = threading.Lock()
        self._closed = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def _send_user_message(self, message: paramiko.Message) -> None:
        with self._order:
            if self._closed:
                return
            self._closed = message.asbytes()[:1] == cMSG_CHANNEL_CLOSE
            self._transport._send_user_message(message)  # type: ignore[attr-defined]


def open_session(transport: paramiko.Transport, timeout_s: float) -> paramiko.Channel:
    """A session channel. Raises as Transport.open_session."""
    channel = transport.open_session(timeout=timeout_s)
    # Before anything is sent on it; paramiko has no way to say which class of channel to make.
    channel.transport = CloseGuard(transport)  # type: ignore[assignment]
    return channel


class StartOptions(TypedDict, total=False):
    """What can be said of a command beside its words."""

    input: bytes | None
    """What it reads from stdin."""
    max_output: int
    """Bytes kept of each stream; the rest is counted and dropped."""
    on_stdout: Callable[[bytes], None] | None
    """Gets each piece of its output as it comes, in a thread of its own."""


class RunningCommand:
    """A command in a thread of its own."""

    def __init__(
        self,
        transport: paramiko.Transport,
        race: Race,
        line: str,
        lost: Callable[[str], HarnessError],
        *,
        hold_stdin: bool,
        input: bytes | None = None,
        max_output: int = MAX_OUTPUT,
        on_stdout: Callable[[bytes], None] | None = None,
    ) -> None:
        """Nothing is started yet. `lost` makes the error for a connection that broke."""
        self.line = line
        self._transport = transport
        self._race = race
        self._lost = lost
        self._hold_stdin = hold_stdin
        self._input = input or b""
        self._max_output = max_output
        self._on_stdout = on_stdout
        self._kept = (bytearray(), bytearray())
        self._dropped = [0, 0]
        self._channel: paramiko.Channel | None = None
        self._result: CommandResult | None = None
        self._error: BaseException | None = None
        self._under_way = self._done = False
        self._thread = threading.Thread(
            target=self._work, name=f"cvm-command {short(line)}", daemon=True
        )

    def begin(self) -> None:
        """Start it; when this returns the guest has it. Raises what kept it from starting."""
        self._thread.start()
        try:
            self._race.wait(
                f"the guest to start {short(self.line)}",
                lambda: self._under_way or self._done or None,
                SETUP_S,
            )
        except BaseException:
            self.abandon()
            raise
        if self._error:
            raise self._error

    @property
    def running(self) -> bool:
        return not self._done

    def wait(self, deadline_s: float = 60.0, *, check: bool = True) -> CommandResult:
        """Its result once it has ended by itself. Raises CommandFailed if `check` and the exit
        status is not 0, and what the race raises."""
        # A verdict that ends this wait also ends the thread, with the same cause.
        self._race.wait(f"the end of {short(self.line)}", lambda: self._done or None, deadline_s)
        self.join()
        if self._error:
            raise self._error
        assert self._result is not None
        if check and self._result.exit_status != 0:
            raise CommandFailed(self.line, self._result)
        return self._result

    def stop(self, grace_s: float = 5.0) -> CommandResult:
        """End its stdin and send it SIGTERM, then SIGKILL after `grace_s`; its result. The signal
        goes to the process that the guest's shell runs in: give `start` a sequence, or `exec` the
        command that matters. Raises if the command had failed to run."""
        for signal_name in ("TERM", "KILL"):
            if self._done:
                break
            bounded(functools.partial(self._signal, signal_name))
            self._race.poll(f"{short(self.line)} to stop", lambda: self._done or None, grace_s)
        if not self._done:
            self._close()
        return self.wait(grace_s, check=False)

    def abandon(self) -> None:
        """Close the channel and end the thread, whatever the command does."""
        self._close()
        self.join()

    def join(self) -> None:
        """Wait for the thread; the channel must have ended or been closed."""
        if self._thread.ident:  # it was started
            self._thread.join(timeout=_JOIN_S)

    def _close(self) -> None:
        if self._channel:
            bounded(self._channel.close)

    # What the thread does.

    def _work(self) -> None:
        started_ns = time.monotonic_ns()
        try:
            channel = self._open()
            try:
                feeder = self._feed(channel)
                self._under_way = True
                self._race.notify()
                self._drain(channel)
                elapsed_ns = time.monotonic_ns() - started_ns
                out, err = map(bytes, self._kept)
                self._result = CommandResult(
                    out, err, channel.exit_status, elapsed_ns, *self._dropped
                )
                if feeder:
                    feeder.join()
            finally:
                channel.close()
        except BaseException as error:
            self._error = error
        self._done = True
        self._race.notify()

    def _open(self) -> paramiko.Channel:
        try:
            channel = open_session(self._transport, SETUP_S * self._race.time_scale)
            self._channel = channel
            channel.exec_command(self.line)
        except (paramiko.SSHException, OSError, EOFError) as error:
            raise self._lost(str(error) or type(error).__name__) from error
        bell = Bell(self._race)
        channel.in_buffer.set_event(bell)
        channel.in_stderr_buffer.set_event(bell)
        return channel

    def _feed(self, channel: paramiko.Channel) -> threading.Thread | None:
        """Send stdin: at once what fits the first window, else beside the draining."""

        def send() -> None:
            # The channel may end first: a command need not read its input.
            with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
                channel.sendall(self._input)
                if not self._hold_stdin:
                    channel.shutdown_write()

        if len(self._input) <= _INLINE_INPUT:
            send()
            return None
        thread = threading.Thread(target=send, name="cvm-stdin", daemon=True)
        thread.start()
        return thread

    def _drain(self, channel: paramiko.Channel) -> None:
        """Take both streams as they come, until both have ended. Raises what the race raises."""
        what, started = f"the end of {short(self.line)}", time.monotonic()

        def finished() -> bool:
            return bool(channel.closed or (channel.eof_received and channel.exit_status_ready()))

        def ready() -> bool | None:
            return channel.recv_ready() or channel.recv_stderr_ready() or finished() or None

        while True:
            # Asked before draining: what came before the end is then in the buffers.
            over = finished()
            if self._move(channel):
                self._race.check(what, time.monotonic() - started)
            elif over:
                break
            else:
                self._race.wait(what, ready, None, started=started)
        if channel.exit_status == _NO_STATUS and not self._transport.is_active():
            raise self._lost("connection closed")

    def _move(self, channel: paramiko.Channel) -> bool:
        """Take what is there, a bounded number of pieces. Whether there was anything."""
        for count in range(_DRAIN_AT_ONCE):
            out, err = channel.recv_ready(), channel.recv_stderr_ready()
            if not out and not err:
                return count > 0
            if out:
                self._take(0, channel.recv(_CHUNK))
            if err:
                self._take(1, channel.recv_stderr(_CHUNK))
        return True

    def _take(self, stream: int, data: bytes) -> None:
        kept = self._kept[stream]
        room = max(0, self._max_output - len(kept))
        kept += data[:room]
        self._dropped[stream] += max(0, len(data) - room)
        if stream == 0 and self._on_stdout:
            self._on_stdout(data)

    def _signal(self, name: str) -> None:
        """RFC 4254 section 6.9; dropbear honours it (svr-chansession.c), paramiko has no call."""
        channel = self._channel
        if not channel:
            return
        message = paramiko.Message()
        message.add_byte(cMSG_CHANNEL_REQUEST)
        message.add_int(channel.remote_chanid)
        message.add_string("signal")
        message.add_boolean(False)
        message.add_string(name)
        with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
            channel.shutdown_write()
            channel.transport._send_user_message(message)  # type: ignore[union-attr]


def bounded(close: Callable[[], object]) -> None:
    """Ask something of paramiko's that may wait for a peer or a lock, and not wait for ever."""
    thread = threading.Thread(target=close, name="cvm-close", daemon=True)
    thread.start()
    thread.join(_CLOSE_S)


def command_line(command: str | Sequence[str]) -> str:
    """What the guest's shell gets. A sequence replaces the shell, so that signals reach it."""
    if isinstance(command, str):
        return command
    return "exec " + shlex.join(map(os.fspath, command))


def short(line: str) -> str:
    one = printable(line.encode())
    return repr(one if len(one) <= 80 else one[:77] + "...")
