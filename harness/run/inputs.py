# SPDX-License-Identifier: MIT
"""What went into a run: recorded so that it can be trusted and rerun years later."""

from __future__ import annotations

import platform
import re
import resource
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

from harness.base.store import digest_file
from harness.guest.machine import Machine
from harness.host.state import host_state
from harness.host.view import LiveHost
from harness.record.rundir import RunDir


def host_facts() -> dict[str, object]:
    """The host as far as it can shape a figure or explain a failure."""
    cpuinfo = Path("/proc/cpuinfo").read_text(errors="replace")
    model = re.search(r"^model name\s*: (.+)$", cpuinfo, re.MULTILINE)
    return {
        **host_state(LiveHost()),
        "page_bytes": resource.getpagesize(),
        "kernel": platform.release(),
        "cpu": model[1].strip() if model else "unknown",
        "cpus": psutil.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
    }


def join_initrd(pieces: Sequence[Path]) -> str:
    """The shell command that joins the pieces of an initramfs in the current directory."""
    return f"cat {shlex.join(map(str, pieces))} > initrd.img"


def repro_script(machine: Machine, pieces: Sequence[Path], rerun: str) -> str:
    """A script that starts the same guest by hand, and the command that does the run again.

    `pieces` are the parts of the initramfs, joined in their order.
    """
    return f"""#!/bin/sh
# Starts this run's guest by hand, on the terminal (leave QEMU with Ctrl-A x).
# The whole run again, with its workload and checks:
#   {rerun}
set -eu
cd "$(dirname "$0")"
trap 'rm -f initrd.img' EXIT
{join_initrd(pieces)}
{machine.command_line()}
"""


def record_inputs(
    directory: RunDir, machine: Machine, pieces: Sequence[Path], rerun: str, **facts: object
) -> None:
    """Write `facts`, the host, the command line and repro.sh."""
    firmware: Mapping[str, str] = {
        arg: digest_file(Path(arg))
        for option, *rest in machine.args
        if option == "-bios"
        for arg in rest
    }
    directory.update(
        **facts,
        host=host_facts(),
        firmware=firmware,
        command_line=machine.command_line(),
        rerun=rerun,
    )
    script = directory.path / "repro.sh"
    script.write_text(repro_script(machine, pieces, rerun))
    script.chmod(0o755)
