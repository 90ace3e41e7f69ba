# SPDX-License-Identifier: MIT
"""One SSH session to one guest: commands with deadlines, both streams drained, files.

Every wait goes through the guest's Race, so a command is given up at once when QEMU dies or the
guest panics. The host key is pinned; the client key is the guest image's own.
"""

from __future__ import annotations

import contextlib
import functools
import shlex
import socket
import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import paramiko
import tenacity

from harness.base.status import HarnessError, HostError, PreconditionError
from harness.guest.ssh.commands import (
    SETUP_S,
    CommandFailed,
    CommandResult,
    Output,
    RunningCommand,
    bounded,
    command_line,
    short,
)
from harness.guest.wait import Race

USER = "root"
DEFAULT_MAX_OUTPUT = 8 << 20
"""Bytes kept of each stream of a command; the rest is counted and dropped."""
MAX_FILE = 256 << 20
"""Bytes of a file that `get` takes at most unless told otherwise."""

_BANNER_S = 2.0


@dataclass(frozen=True)
class GuestKeys:
    """What it takes to log in to a guest, and to know that it is the one."""

    client_key: Path
    """An RSA private key in OpenSSH format that the guest's root accepts."""
    host_public_key: str
    """The guest's host key: "ssh-ed25519 AAAA…"."""


class ConnectionLost(HostError):
    """The SSH connection ended under a command. The race's judge says what that means."""


class _Edge(Exception):
    """Nobody serves SSH on the port yet."""


class SshSession:
    """One connection. Any number of commands at a time, from any thread."""

    def __init__(self, port: int, keys: GuestKeys, race: Race, *, deadline_s: float = 20.0) -> None:
        """Connect to 127.0.0.1:`port`. Raises HostError, or the race's verdict."""
        self.banner_ns = 0
        """When the server's banner was there, host CLOCK_MONOTONIC."""
        self._race = race
        self._port = port
        self._running = weakref.WeakSet[RunningCommand]()  # their threads keep them alive
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
        transport.start_client(timeout=SETUP_S * self._race.time_scale)
        if transport.get_remote_server_key().asbytes() != host_key.asbytes():
            raise paramiko.SSHException("the server's key is not the guest's: not our guest")
        transport.auth_publickey(USER, client_key)

    def _knock(self) -> socket.socket:
        """A connected socket on which the server's banner waits to be read.

        QEMU's user network accepts before the guest does, and hangs up if nobody listens there.
        """
        retry = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type((_Edge, OSError)),
            stop=tenacity.stop_after_delay(SETUP_S * self._race.time_scale),
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
        if self._socket:
            # First: paramiko's thread, which its close waits for, otherwise looks up from its read
            # every 100 ms only.
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)
        if self._transport:
            bounded(self._transport.close)
        if self._socket:
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

        `on_stdout` gets each piece as it comes, in a thread of its own. Raises CommandFailed if
        `check` and the exit status is not 0, and what the race raises.
        """
        output = Output(max_output, on_stdout)
        running = self._begin(command, output, input, hold_stdin=False)
        try:
            result = running.wait(deadline_s, check=False)
        except BaseException:
            running.abandon()
            raise
        if check and result.exit_status != 0:
            raise CommandFailed(running.line, result)
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
        return self._begin(command, Output(max_output, on_stdout), input, hold_stdin=True)

    def _begin(
        self, command: str | Sequence[str], output: Output, input: bytes | None, *, hold_stdin: bool
    ) -> RunningCommand:
        assert self._transport is not None
        line = command_line(command)
        lost = functools.partial(self._lost, line)
        started = RunningCommand(
            self._transport, self._race, line, output, input, lost, hold_stdin=hold_stdin
        )
        self._running.add(started)
        started.begin()
        return started

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

    def _lost(self, line: str, why: str) -> HarnessError:
        """The error for a connection that broke, after a moment for a better cause to show."""
        what = f"the end of {short(line)}"
        self._race.poll(f"{what}, when the SSH connection broke", lambda: None, 1.0)
        return self._race.judge(
            ConnectionLost(f"the SSH connection broke ({why}) while waiting for {what}")
        )


def _parse_host_key(text: str) -> paramiko.PKey:
    import base64

    kind, _, rest = text.strip().partition(" ")
    if kind != "ssh-ed25519":
        raise ValueError(f"the guest's host key is {kind!r}, not ssh-ed25519")
    return paramiko.Ed25519Key(data=base64.b64decode(rest.split()[0]))
