# SPDX-License-Identifier: MIT
"""A guest under a person's hands: a shell, one command, or just kept running."""

import shlex
import subprocess
import sys

from rich.console import Console

from harness.guest.guest import Guest
from harness.run.run import Run

_FOREVER_S = 30 * 24 * 3600.0


def shell(run: Run) -> int:
    """An interactive shell through the stock ssh client; its exit status."""
    return subprocess.run(run.guest.stock_ssh(), check=False).returncode


def run_command(guest: Guest, command: str) -> int:
    """One command, its output passed on as it comes; its exit status."""

    def pass_on(data: bytes) -> None:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()

    result = guest.run(command, deadline_s=_FOREVER_S, check=False, on_stdout=pass_on)
    sys.stderr.buffer.write(result.stderr)
    return result.exit_status


def hold(run: Run, err: Console) -> int:
    """Print how to get in, and keep the guest until Ctrl-C or its own end."""
    err.print(shlex.join(run.guest.stock_ssh()), markup=False)
    err.print("the guest runs until Ctrl-C")
    run.guest.wait_shutdown(deadline_s=_FOREVER_S)
    return 0
