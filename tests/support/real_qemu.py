# SPDX-License-Identifier: MIT
"""A real QEMU with both confidential-guest objects, and guests of it without KVM."""

import asyncio
import contextlib
import dataclasses
import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from qemu.qmp import QMPClient

from harness.guest.machine import Machine
from harness.qemu.binary import Qemu

DEADLINE_S = 120


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


def without_kvm(machine: Machine) -> Machine:
    """The same guest under TCG, with a processor that TCG can be."""
    replaced = {"-accel": ("-accel", "tcg"), "-cpu": ("-cpu", "max")}
    return dataclasses.replace(
        machine, args=tuple(replaced.get(option[0], option) for option in machine.args)
    )


def unconfidential(machine: Machine) -> list[tuple[str, ...]]:
    """Without the confidential object; huge pages, which this machine may not have, become plain;
    empty files stand for kernel and firmware, so that these are left out."""
    found: list[tuple[str, ...]] = []
    for name, *rest in machine.args:
        value = rest[0] if rest else ""
        if "sev-snp-guest" in value or "tdx-guest" in value or name in ("-bios", "-kernel"):
            continue
        if name in ("-initrd", "-append"):  # useless without -kernel
            continue
        value = re.sub(r",confidential-guest-support=cgs0|,hugetlb=on|,hugetlbsize=\w+", "", value)
        value = value.replace("kernel-irqchip=split,", "")  # KVM's
        found.append((name, value) if rest else (name,))
    return found
