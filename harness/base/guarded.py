# SPDX-License-Identifier: MIT
"""Long commands (make, pytest, the harness itself) that end when we do, or when time is up."""

import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from harness.base.status import HostError

# The guardian leads the process group. Its parent's death (PDEATHSIG, prctl(2), is not inherited
# by make's children) reaches it as SIGUSR1, upon which it kills the whole group. SIGTERM it only
# survives, so that make can remove unfinished targets. $0 is the pid that must be its parent:
# otherwise that one died before the death signal was armed.
_GUARDIAN = """
[ "$PPID" = "$0" ] || exit 99
trap 'kill -KILL 0' USR1
trap : TERM
"$@" &
child=$!
wait $child; status=$?
while kill -0 $child 2>/dev/null; do wait $child; status=$?; done
exit $status
"""
GRACE_S = 15.0
"""How long make may take to clean up after SIGTERM before it is killed."""


class DeadlineExceeded(HostError):
    """The command did not end in its time and was killed: MISS."""


def ask(
    argv: Sequence[str | Path],
    deadline_s: float | None = None,
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a program that is given nothing and answers soon; its output is text, whatever it prints.
    Raises OSError, subprocess.TimeoutExpired."""
    return subprocess.run(
        argv,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=deadline_s,
        cwd=cwd,
        env=env,
        check=False,
    )


def run_guarded(
    argv: Sequence[str],
    *,
    cwd: Path,
    env: Mapping[str, str],
    line: Callable[[str], None],
    unfinished: Path | None = None,
    deadline_s: float | None = None,
) -> int:
    """Run `argv` to its end and return its exit code; `line` gets each line it prints.

    Whatever ends us first, it ends too: an exception (Ctrl-C) terminates its process group, our
    death kills it (prctl(2): tied to the calling thread, which waits here). `unfinished` exists
    from its start until it has ended in an orderly way. Raises DeadlineExceeded after `deadline_s`.
    """
    if unfinished:
        unfinished.touch()
    process = subprocess.Popen(
        ["setpriv", "--pdeathsig", "USR1", "sh", "-c", _GUARDIAN, str(os.getpid()), *argv],
        cwd=cwd,
        env=dict(env),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        text=True,
        errors="replace",
    )
    orderly = False
    try:
        assert process.stdout
        with _deadline(process, deadline_s) as expired:
            for text in process.stdout:
                line(text.rstrip("\n"))
            code = process.wait()
        orderly = code >= 0
    finally:
        if process.poll() is None:
            orderly = _terminate(process)
        if unfinished and orderly:
            unfinished.unlink(missing_ok=True)
    if expired.is_set():
        raise DeadlineExceeded(
            f"{Path(argv[0]).name} did not end within {deadline_s:.0f} s and was stopped"
        )
    return code


@contextlib.contextmanager
def _deadline(process: subprocess.Popen[str], seconds: float | None) -> Iterator[threading.Event]:
    """Ends the group after `seconds`: SIGTERM, then SIGKILL; the event says that it did."""
    expired = threading.Event()
    if seconds is None:
        yield expired
        return

    def end(number: int) -> None:
        expired.set()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)

    timers = [
        threading.Timer(seconds, end, [signal.SIGTERM]),
        threading.Timer(seconds + GRACE_S, end, [signal.SIGKILL]),
    ]
    for timer in timers:
        timer.daemon = True
        timer.start()
    try:
        yield expired
    finally:
        for timer in timers:
            timer.cancel()
            timer.join()


def _terminate(process: subprocess.Popen[str]) -> bool:
    """End the group; whether it ended in good order."""
    os.killpg(process.pid, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        # Read on: a make that blocks on a full pipe cannot end.
        process.communicate(timeout=GRACE_S)
        return True
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return False
