# SPDX-License-Identifier: MIT
"""One SSH session to one guest, its host key pinned. Every wait goes through the guest's Race, so a
command is given up at once when QEMU dies or the guest panics."""

import base64
import contextlib
import functools
import socket
import time
import weakref
from collections.abc import Sequence
from typing import Unpack

import paramiko

from harness.base.status import HarnessError, HostError
from harness.guest.ssh.commands import (
    SETUP_S,
    RunningCommand,
    StartOptions,
    bounded,
    command_line,
    short,
)
from harness.guest.wait import Race
from harness.image.keys import Keys

SSH = "ssh"
"""The stock client, for people and for comparison."""
_USER = "root"
_HOST = "127.0.0.1"
_BANNER_S = 2.0


class ConnectionLost(HostError):
    """The SSH connection ended under a command. The race's judge says what that means."""


class SshSession:
    """One connection. Any number of commands at a time, from any thread."""

    def __init__(self, port: int, keys: Keys, race: Race, *, deadline_s: float = 20.0) -> None:
        """Connect to 127.0.0.1:`port`. Raises HostError, or the race's verdict."""
        self.banner_ns = 0
        """When the server's banner was there, host CLOCK_MONOTONIC."""
        self.login_ns = 0
        """When the server had taken the client's key."""
        self._race = race
        self._port = port
        self._running = weakref.WeakSet[RunningCommand]()  # their threads keep them alive
        self._closed = False
        self._socket: socket.socket | None = None
        self._transport: paramiko.Transport | None = None
        try:
            race.call("the SSH connection", lambda: self._connect(keys), deadline_s, self._drop)
        except (paramiko.SSHException, OSError, EOFError, ValueError) as error:
            self._drop()
            raise race.judge(
                ConnectionLost(f"cannot log in to the guest: {type(error).__name__}: {error}")
            ) from error
        except BaseException:
            self._drop()
            raise

    # Making and ending the connection.

    def _connect(self, keys: Keys) -> None:
        _kind, host_key = keys.host_public_key.split()[:2]
        client_key = paramiko.RSAKey.from_private_key_file(str(keys.private_key))
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
        if transport.get_remote_server_key().asbytes() != base64.b64decode(host_key):
            raise paramiko.SSHException("the server's key is not the guest's: not our guest")
        transport.auth_publickey(_USER, client_key)
        self.login_ns = time.monotonic_ns()

    def _knock(self) -> socket.socket:
        """A connected socket on which the server's banner waits to be read. QEMU's user network
        accepts before the guest does, and hangs up if nobody listens there."""
        end = time.monotonic() + SETUP_S * self._race.time_scale
        while not self._closed:
            try:
                return self._knock_once()
            except OSError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.02)
        raise EOFError("given up")

    def _knock_once(self) -> socket.socket:
        attempt = socket.create_connection(
            (_HOST, self._port), timeout=_BANNER_S * self._race.time_scale
        )
        self._socket = attempt
        try:
            attempt.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if attempt.recv(4, socket.MSG_PEEK) != b"SSH-":
                raise ConnectionError("no SSH banner")
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

    def start(
        self,
        command: str | Sequence[str],
        *,
        hold_stdin: bool = True,
        **options: Unpack[StartOptions],
    ) -> RunningCommand:
        """Start a command that runs while others do. A sequence is run without a shell's
        interpretation; text is given to it. With `hold_stdin` its stdin stays open until `stop`, so
        a command may take the end of stdin as its sign."""
        assert self._transport is not None
        line = command_line(command)
        lost = functools.partial(self._lost, line)
        started = RunningCommand(
            self._transport, self._race, line, lost, hold_stdin=hold_stdin, **options
        )
        self._running.add(started)
        started.begin()
        return started

    def _lost(self, line: str, why: str) -> HarnessError:
        """The error for a connection that broke, after a moment for a better cause to show."""
        what = f"the end of {short(line)}"
        self._race.poll(f"{what}, when the SSH connection broke", lambda: None, 1.0)
        return self._race.judge(
            ConnectionLost(f"the SSH connection broke ({why}) while waiting for {what}")
        )


def ssh_command(port: int, keys: Keys) -> list[str]:
    """A command line that ends in the guest's name: add what to run there. The guest's host key is
    pinned, in a file that this writes beside the client's key."""
    known = keys.private_key.with_name("known_hosts")
    known.write_text(f"[{_HOST}]:{port} {keys.host_public_key}\n")
    return [
        SSH,
        *("-F", "none", "-p", str(port), "-i", str(keys.private_key), "-o", "IdentitiesOnly=yes"),
        *("-o", f"UserKnownHostsFile={known}", "-o", "StrictHostKeyChecking=yes"),
        *("-o", "LogLevel=ERROR", f"{_USER}@{_HOST}"),
    ]
