# SPDX-License-Identifier: MIT
"""One thread per guest that hears everything: console, ready port, QMP, and QEMU's end. It is the
only writer of what it knows; others read, and are notified of every change."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import socket
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.base.status import PreconditionError
from harness.guest.process import QemuProcess
from harness.record.console import ConsoleScanner, Splat
from harness.record.platform_state import (
    FATAL_EVENT,
    VIOLATION_EVENT,
    Fatal,
    Violation,
    parse_fatal,
    parse_violation,
)
from harness.record.ready import GuestMessage, ReadyPort

if TYPE_CHECKING:
    from harness.guest.qmp import QmpClient

Event = Mapping[str, object]

_MAX_EVENTS = 1000
"""QMP events kept for somebody to wait for; all are in the transcript."""
_MAX_CONSOLE_LOG = 256 << 20
"""Bytes of console.log: a guest that babbles must not fill the disk."""
_CHUNK = 64 * 1024
_DRAIN_S = 1.0
"""How long to read on after QEMU's end: what it wrote is in our sockets already."""
_HALTED = ("internal-error", "io-error")
_PANIC_TALK_S = 1.0
"""Grace period to collect the console output of a panic, in seconds."""


@dataclass(frozen=True)
class Channels:
    qmp: socket.socket
    console: socket.socket
    ready: socket.socket

    def close(self) -> None:
        for end in (self.qmp, self.console, self.ready):
            end.close()


@dataclass(frozen=True)
class Exit:
    status: int
    """Exit status, or minus the signal's number."""
    shutdown_reason: str
    """From QMP's last SHUTDOWN event (qapi/run-state.json: ShutdownCause), or empty."""


class Monitor:
    """Starts listening at once; `close` when QEMU has ended."""

    def __init__(
        self,
        process: QemuProcess,
        channels: Channels,
        transcript: Path,
        console_log: Path,
        notify: Callable[[], None],
        time_scale: float = 1.0,
        console: bytes = b"",
    ) -> None:
        """`console` is what a restored guest's template had said before it was saved."""
        self.qmp_ready_ns = 0
        self.first_byte_ns = 0
        """When the first console byte came in."""
        self.exit: Exit | None = None
        """Set when QEMU has ended and all it wrote has been read."""
        self.panicked = False
        """The guest panicked, and has said what it had to say."""
        self.violation: Violation | None = None
        """The access for which the emulated platform has stopped the guest."""
        self.terminated: Fatal | None = None
        """What the guest told its platform when it gave up."""
        self.halted = ""
        """The run state in which QEMU stopped the guest by itself, internal-error or io-error
        (qapi/run-state.json: RunState). It would stay there forever."""
        self._process = process
        self._channels = channels
        self._transcript = transcript
        # Not QEMU's logfile=: it logs a byte again each time our socket has no room for it
        # (chardev/char.c, qemu_chr_write_buffer(), 7.2 to 11.1), and a busy host makes that happen.
        self._console_log = console_log.open("wb", buffering=0)
        self._console_log.write(console)
        self._notify = notify
        self._panic_talk_s = _PANIC_TALK_S * time_scale
        self._lock = threading.Lock()  # guards scanner, port and events
        self._scanner = ConsoleScanner()
        self._scanner.feed(console, time.monotonic_ns())
        self._port = ReadyPort()
        self._events: deque[Event] = deque(maxlen=_MAX_EVENTS)
        self._shutdown_reason = ""
        self._panic_timer: asyncio.TimerHandle | None = None
        self._asking: asyncio.Task[None] | None = None
        self._client: QmpClient | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, name="cvm-monitor", daemon=True)
        self._thread.start()

    # What others ask.

    @property
    def splats(self) -> tuple[Splat, ...]:
        """What the console showed so far."""
        with self._lock:
            return self._scanner.splats

    @property
    def fatal(self) -> Splat | None:
        """The first splat that no guest recovers from."""
        return self._scanner.fatal

    @property
    def rejected(self) -> str:
        """Why the first unreadable message on the ready port was refused; empty if none was."""
        return self._port.first_rejection

    def tail(self, count: int) -> tuple[str, ...]:
        """The last console lines, printable."""
        with self._lock:
            return self._scanner.tail(count)

    def message(self, event: str, since_ns: int = 0) -> GuestMessage | None:
        """The guest's first message of a kind that came in after `since_ns`."""
        with self._lock:
            found = (m for m in self._port.messages if m.event == event and m.host_ns >= since_ns)
            return next(found, None)

    def tell(self, line: str) -> bool:
        """Send a line to the guest's init. False if the port takes nothing."""
        try:
            self._channels.ready.send(line.encode() + b"\n", socket.MSG_DONTWAIT)
        except OSError:
            return False
        return True

    def take_event(self, name: str, predicate: Callable[[Event], bool] | None) -> Event | None:
        """Remove and return the oldest kept event that fits."""
        with self._lock:
            for event in self._events:
                if event.get("event") == name and (predicate is None or predicate(event)):
                    self._events.remove(event)
                    return event
        return None

    def execute(
        self, command: str, arguments: Mapping[str, object] | None
    ) -> concurrent.futures.Future[object]:
        """Start a QMP command. The future fails with QMPError, or if there is no connection."""
        return self._ask(lambda client: client.execute(command, arguments))

    def give(self, descriptor: int, name: str) -> concurrent.futures.Future[object]:
        """Hand QEMU one of our file descriptors, to be called `name` from here on (QMP's getfd)."""

        async def send(client: QmpClient) -> object:
            client.send_fd_scm(descriptor)
            return await client.execute("getfd", {"fdname": name})

        return self._ask(send)

    def _ask(
        self, request: Callable[[QmpClient], Coroutine[Any, Any, object]]
    ) -> concurrent.futures.Future[object]:
        loop, client = self._loop, self._client
        if loop is None or client is None or not self.qmp_ready_ns:
            raise ConnectionError("there is no QMP connection")
        asking = request(client)
        try:
            future = asyncio.run_coroutine_threadsafe(asking, loop)
        except RuntimeError as error:  # the loop has ended, with QEMU
            asking.close()
            raise ConnectionError("there is no QMP connection any more") from error
        future.add_done_callback(lambda _: self._notify())
        return future

    def close(self) -> None:
        """Stop listening. QEMU must have ended. Joins the thread; closes sockets and log."""
        self._thread.join()
        self._channels.close()
        self._console_log.close()

    # What the thread does.

    def _run(self) -> None:
        with asyncio.Runner() as runner:
            runner.run(self._listen())
        self._notify()

    async def _listen(self) -> None:
        loop = self._loop = asyncio.get_running_loop()
        ended = asyncio.Event()
        loop.add_reader(self._process.pidfd, ended.set)
        with self._transcript.open("w") as transcript:
            hearing = [
                loop.create_task(self._read(self._channels.console, self._on_console)),
                loop.create_task(self._read(self._channels.ready, self._on_ready)),
            ]
            from harness.guest.qmp import QmpClient  # here, so that QEMU starts meanwhile

            self._client = QmpClient(transcript, self._on_event)
            hearing.append(loop.create_task(_quietly(self._connect(self._client))))
            await ended.wait()
            loop.remove_reader(self._process.pidfd)
            await asyncio.wait(hearing, timeout=_DRAIN_S)
            with contextlib.suppress(Exception):  # EOFError: QEMU is gone, and that is known
                await asyncio.wait_for(self._client.disconnect(), _DRAIN_S)
        with self._lock:
            self._scanner.close(time.monotonic_ns())
        status = self._process.wait(_DRAIN_S)  # it has ended: this only reaps
        self.exit = Exit(status or 0, self._shutdown_reason)

    async def _connect(self, client: QmpClient) -> None:
        from qemu.qmp import Runstate

        await client.connect(self._channels.qmp)
        self.qmp_ready_ns = time.monotonic_ns()
        self._notify()
        while client.runstate is Runstate.RUNNING:
            await client.runstate_changed()
        self._notify()

    async def _read(self, end: socket.socket, take: Callable[[bytes], None]) -> None:
        end.setblocking(False)
        with contextlib.suppress(ConnectionError):  # QEMU is gone
            while data := await asyncio.get_running_loop().sock_recv(end, _CHUNK):
                take(data)
                self._notify()

    def _on_console(self, data: bytes) -> None:
        now = time.monotonic_ns()
        self.first_byte_ns = self.first_byte_ns or now
        with self._lock:
            self._scanner.feed(data, now)
        room = _MAX_CONSOLE_LOG - self._console_log.tell()
        with contextlib.suppress(OSError):  # a full disk must not make the harness deaf
            self._console_log.write(data[: max(room, 0)])
        if self._scanner.fatal:
            self._let_panic_talk()

    def _on_ready(self, data: bytes) -> None:
        with self._lock:
            self._port.feed(data, time.monotonic_ns())

    def _on_event(self, event: dict[str, object]) -> None:
        name = event.get("event")
        data = event.get("data")
        with self._lock:
            self._events.append(event)
        if name == "SHUTDOWN" and isinstance(data, dict):
            self._shutdown_reason = str(data.get("reason", ""))
        if name == "GUEST_PANICKED":
            self._let_panic_talk()
        with contextlib.suppress(PreconditionError):  # it is in the transcript
            if name == VIOLATION_EVENT:
                violation = parse_violation(data)
                if violation.action == "stop":
                    self.violation = self.violation or violation
            if name == FATAL_EVENT:
                self.terminated = self.terminated or parse_fatal(data)
        if name == "STOP":
            self._asking = asyncio.get_running_loop().create_task(_quietly(self._ask_why()))
        self._notify()

    async def _ask_why(self) -> None:
        """The event does not say whether it was we who stopped the guest."""
        assert self._client is not None
        answer = await self._client.execute("query-status")
        status = answer.get("status") if isinstance(answer, dict) else None
        if status in _HALTED:
            self.halted = str(status)
            self._notify()

    def _let_panic_talk(self) -> None:
        def declare() -> None:
            self.panicked = True
            self._notify()

        if not self._panic_timer:
            loop = asyncio.get_running_loop()
            self._panic_timer = loop.call_later(self._panic_talk_s, declare)


async def _quietly(task: Awaitable[None]) -> None:
    # A connection that failed or broke says the same as QEMU's end, which is reported.
    with contextlib.suppress(Exception):
        await task
