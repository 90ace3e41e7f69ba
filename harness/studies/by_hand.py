# SPDX-License-Identifier: MIT
"""A guest started as a person would: QEMU's line as `--dry-run` prints it, and the stock ssh.

What the harness takes longer than this is the harness's own.
"""

from __future__ import annotations

import contextlib
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import tenacity

from harness.base.status import HostError
from harness.guest.process import QemuProcess
from harness.guest.ssh.session import ssh_command
from harness.image.build import compose_initrd
from harness.image.keys import Keys
from harness.run.prepared import INITRD, Prepared

_ATTEMPT_S = 20
_PATIENCE_S = 0.1
_HOST = "127.0.0.1"


def first_command_ns(prepared: Prepared, deadline_s: float = 120.0) -> int:
    """Host time from QEMU's spawn to the end of the first command by the stock ssh client.

    Raises HostError if QEMU ends, or nothing answers within `deadline_s`.
    """
    with tempfile.TemporaryDirectory(prefix="cvm-harness-") as name:
        directory = Path(name)
        keys = Keys.generate(directory / "keys")
        machine = prepared.machine(compose_initrd(prepared.image, keys, directory / INITRD))
        port = _free_port()
        line = f"exec {machine.command_line(port)}"
        qemu = QemuProcess(("sh", "-c", line), directory / "qemu.log", ())
        try:
            _until(deadline_s)(_listens, qemu, port)
            command = ssh_command(port, keys)
            _until(deadline_s)(_true, command)
            return time.monotonic_ns() - qemu.spawned_ns
        except tenacity.RetryError as error:
            raise HostError(
                f"the guest started by hand did not answer within {deadline_s:g} s",
                details=qemu.said(),
            ) from error
        finally:
            qemu.close()


def _until(deadline_s: float) -> tenacity.Retrying:
    return tenacity.Retrying(
        retry=tenacity.retry_if_result(lambda answered: not answered),
        stop=tenacity.stop_after_delay(deadline_s),
    )


def _listens(qemu: QemuProcess, port: int) -> bool:
    """Whether sshd's banner came on a new connection.

    QEMU's user network answers for a guest that is not up yet, and repeats what it lost only after
    seconds: a client that connects early and waits would measure that.
    """
    status = qemu.poll()
    if status is not None:
        raise HostError(f"QEMU ended with exit status {status}", details=qemu.said())
    with contextlib.suppress(OSError), socket.create_connection((_HOST, port), _PATIENCE_S) as one:
        return one.recv(4) == b"SSH-"
    return False


def _true(command: Sequence[str]) -> bool:
    try:
        done = subprocess.run(
            [*command, "true"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_ATTEMPT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        port: int = probe.getsockname()[1]
        return port
