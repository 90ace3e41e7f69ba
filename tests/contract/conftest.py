# SPDX-License-Identifier: MIT
"""The QEMU to check against: the machine's own if it has both objects, else one from the mirror."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from qemu.qmp import QMPClient

from contract.qemu_root import QemuRoot, qemu_root
from harness.base.status import HarnessError
from harness.base.store import Store
from harness.qemu.binary import Qemu, find_qemu, parse_version, query

DEADLINE_S = 120
OBJECTS = ("sev-snp-guest", "tdx-guest")


@dataclass(frozen=True)
class RealQemu:
    """A QEMU with both confidential-guest objects."""

    qemu: Qemu

    def ask(
        self, arguments: Sequence[str], commands: Sequence[tuple[str, dict[str, Any]]]
    ) -> list[Any]:
        """Answers to QMP commands from a QEMU started with `arguments`, which is ended then."""
        return asyncio.run(asyncio.wait_for(self._ask(arguments, commands), DEADLINE_S))

    async def _ask(
        self, arguments: Sequence[str], commands: Sequence[tuple[str, dict[str, Any]]]
    ) -> list[Any]:
        ours, theirs = socket.socketpair()
        monitor = [f"-chardev=socket,id=qmp,fd={theirs.fileno()}", "-mon=chardev=qmp,mode=control"]
        flat = [word for option in monitor for word in option.split("=", 1)]
        process = await asyncio.create_subprocess_exec(
            *(str(self.qemu.binary), *arguments, *flat),
            pass_fds=[theirs.fileno()],
            stdin=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        theirs.close()
        client = QMPClient("contract")
        try:
            await client.connect(ours)
            return [await client.execute(name, given) for name, given in commands]
        except Exception as error:
            process.kill()
            _, said = await process.communicate()
            pytest.fail(f"{error!r}; QEMU said: {said.decode(errors='replace')}")
        finally:
            with contextlib.suppress(Exception):  # its end is seen by several of its tasks
                await client.disconnect()
            if process.returncode is None:
                process.kill()
                await process.wait()


@pytest.fixture(scope="session")
def root() -> QemuRoot:
    """QEMU 11.1 and firmware from the mirror."""
    try:
        return qemu_root(Store())
    except (HarnessError, OSError) as error:
        pytest.skip(f"no recent QEMU can be had here: {error}")


@pytest.fixture(scope="session")
def real(request: pytest.FixtureRequest) -> RealQemu:
    """The QEMU to check against."""
    own = _own()
    if own:
        return RealQemu(own)
    binary: Path = request.getfixturevalue("root").binary
    return RealQemu(Qemu(binary, query(binary, "--version").split("version ")[1].splitlines()[0]))


def _own() -> Qemu | None:
    try:
        qemu = find_qemu()
        objects = query(qemu.binary, "-object", "help").split()
    except HarnessError:
        return None
    new = parse_version(qemu.version) >= (10, 1)
    return qemu if new and all(kind in objects for kind in OBJECTS) else None
