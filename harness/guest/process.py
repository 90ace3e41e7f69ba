# SPDX-License-Identifier: MIT
"""QEMU as a process that cannot outlive us, and how long the host kept it waiting."""

import concurrent.futures
import contextlib
import functools
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from harness.base.status import HostError

_LOG_TAIL = 64 * 1024


@functools.cache
def _spawner(pid: int) -> concurrent.futures.ThreadPoolExecutor:
    # The kernel kills QEMU when the thread that spawned it ends (prctl(2), PR_SET_PDEATHSIG), so
    # one that lives as we do does all spawning. Keyed by pid: threads do not survive a fork.
    return concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix=f"cvm-spawner-{pid}")


@functools.cache
def _setpriv() -> str:
    found = shutil.which("setpriv")
    if not found:
        raise HostError(
            "no setpriv on PATH: without it QEMU could outlive the harness",
            hint="install util-linux (Debian, Ubuntu: apt install util-linux)",
        )
    return found


class QemuProcess:
    """One spawned QEMU. `kill` and `wait` are safe from any thread, and more than once."""

    def __init__(self, argv: Sequence[str], log: Path, pass_fds: Sequence[int]) -> None:
        """Spawn. Raises HostError if that is not possible; what QEMU says goes to `log`."""
        self._log = log
        command = [_setpriv(), "--pdeathsig", "KILL", "--", *argv]
        try:
            with log.open("wb") as output:
                self._popen: subprocess.Popen[bytes] = (
                    _spawner(os.getpid())
                    .submit(
                        subprocess.Popen,
                        command,
                        stdin=subprocess.DEVNULL,
                        stdout=output,
                        stderr=subprocess.STDOUT,
                        pass_fds=tuple(pass_fds),
                        start_new_session=True,  # a Ctrl-C at the terminal is ours to handle
                    )
                    .result()
                )
        except OSError as error:
            raise HostError(f"cannot start {argv[0]}: {error}") from error
        self.spawned_ns = time.monotonic_ns()
        self.pid = self._popen.pid
        self.pidfd = os.pidfd_open(self.pid)

    def poll(self) -> int | None:
        """The exit status (negative: the signal), None while it runs. Reaps."""
        return self._popen.poll()

    def wait(self, seconds: float) -> int | None:
        """The exit status, None if it still runs after `seconds`."""
        try:
            return self._popen.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def kill(self) -> None:
        """SIGKILL, and wait for the end. Nothing to do if it has ended."""
        with contextlib.suppress(ProcessLookupError):
            self._popen.send_signal(signal.SIGKILL)
        self._popen.wait()

    def close(self) -> None:
        self.kill()
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1

    def said(self, lines: int = 20) -> tuple[str, ...]:
        """QEMU's own last words, so many lines of them, without empty ones."""
        try:
            with self._log.open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - _LOG_TAIL))
                text = file.read().decode("utf-8", "replace")
        except OSError:
            return ()
        # "@": what the plugin that counts instructions says (guest-images/tcg-plugin).
        words = (line for line in text.splitlines() if not line.startswith("@"))
        return tuple(line for line in words if line.strip())[-lines:]


def run_delays(pid: int) -> dict[int, int]:
    """Thread -> ns it was runnable and did not run, since it began. The second field of
    /proc/PID/task/TID/schedstat (Documentation/scheduler/sched-stats.rst). Empty where the process
    is gone or the host does not tell."""
    found = {}
    with contextlib.suppress(OSError):
        for task in (Path("/proc") / str(pid) / "task").iterdir():
            with contextlib.suppress(OSError, ValueError, IndexError):
                found[int(task.name)] = int((task / "schedstat").read_text().split()[1])
    return found


def longest_delay(before: dict[int, int], after: dict[int, int]) -> int:
    """Between two readings: ns that the most delayed thread waited."""
    return max((ns - before.get(thread, 0) for thread, ns in after.items()), default=0)
