# SPDX-License-Identifier: MIT
"""QMP to one QEMU: commands with deadlines, and its events."""

import re
from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError, Future

from harness.base.status import HostError
from harness.guest.monitor import Event, Monitor
from harness.guest.wait import Race, WaitEnd

_QMP_S = 10.0
# net/slirp.c and libslirp's slirp_connection_info():
#   TCP[HOST_FORWARD]  12       127.0.0.1 37905       10.0.2.15    22     0     0
_FORWARD = re.compile(r"\s*TCP\[HOST_FORWARD\]\s+\d+\s+127\.0\.0\.1\s+(\d{1,5})\s+\S+\s+22\s")


class Control:
    """What is asked of QEMU itself. It answers also when its guest has panicked."""

    def __init__(
        self,
        monitor: Monitor,
        race: Race,
        ended: Callable[[], WaitEnd | None],
        evidence: Callable[[], tuple[str, ...]],
    ) -> None:
        """`race` is the guest's; `ended` says why QEMU is gone, if it is."""
        self._monitor = monitor
        self._race = race
        # A panic does not end these waits, and a deadline that passes is QEMU's fault.
        self._quiet_race = Race(
            ended,
            evidence=evidence,
            judge=lambda error: HostError(f"QEMU does not answer: {error.cause}"),
            time_scale=race.time_scale,
            changes=race.changes,
        )

    def execute(
        self,
        command: str,
        arguments: Mapping[str, object] | None = None,
        *,
        deadline_s: float = _QMP_S,
    ) -> object:
        """A QMP command's return value. Raises HostError if QEMU refuses it or does not answer."""
        return self._answer(command, lambda: self._monitor.execute(command, arguments), deadline_s)

    def give(self, descriptor: int, name: str) -> None:
        """Pass QEMU a file descriptor as `name`. Raises HostError as `execute` does."""
        self._answer("getfd", lambda: self._monitor.give(descriptor, name), _QMP_S)

    def hmp(self, line: str) -> str:
        return str(self.execute("human-monitor-command", {"command-line": line}))

    def forwarded_port(self) -> int:
        """The host port that QEMU picked for the guest's sshd. Raises HostError."""
        return forwarded_port(self.hmp("info usernet"))

    def wait_event(
        self,
        name: str,
        predicate: Callable[[Event], bool] | None = None,
        *,
        deadline_s: float,
    ) -> Event:
        """The oldest QMP event that fits and was not taken before; it may have come already."""
        return self._race.wait(
            f"QEMU's event {name}", lambda: self.take_event(name, predicate), deadline_s
        )

    def take_event(
        self, name: str, predicate: Callable[[Event], bool] | None = None
    ) -> Event | None:
        """As `wait_event`, without waiting: for a `probe` that looks for one of several."""
        return self._monitor.take_event(name, predicate)

    def state(self) -> tuple[str, str]:
        """What QEMU says of its guest, as query-status names it; and the registers, read twice.
        Raises HostError as `execute` does."""
        status = self.execute("query-status")
        registers = [self.hmp("info registers -a") for _ in range(2)]
        name = status.get("status") if isinstance(status, dict) else status
        return str(name), f"{status}\n\n" + "\n\n".join(registers)

    def _answer(self, command: str, ask: Callable[[], Future[object]], deadline_s: float) -> object:
        from harness.guest.qmp import ExecuteError, QMPError

        monitor = self._monitor
        try:
            future = ask()
            self._quiet_race.wait(
                f"QEMU's answer to {command}", lambda: future.done() or None, deadline_s
            )
            return future.result()
        except ExecuteError as error:
            raise HostError(f"QEMU refused {command}: {error}") from error
        except (QMPError, OSError, EOFError, CancelledError) as error:  # cancelled: by QEMU's end
            self._race.poll(f"QEMU's answer to {command}", lambda: monitor.exit and None, 1.0)
            raise HostError(f"QMP is gone: {type(error).__name__}: {error}") from error


def forwarded_port(info: str) -> int:
    """The host port of the forward to the guest's port 22 in HMP's `info usernet`."""
    for match in map(_FORWARD.match, info.splitlines()):
        if match and 0 < int(match[1]) < 65536:
            return int(match[1])
    raise HostError(f"no forward to guest port 22 in QEMU's answer: {info[:500]!r}")
