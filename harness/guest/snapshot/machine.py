# SPDX-License-Identifier: MIT
"""QEMU's command line with the guest's memory in files: shared to save it, private to restore it.

Restoring maps the very file that the template ran on, copy-on-write, so that neither saving nor
restoring moves the guest's memory (QEMU: migration capability x-ignore-shared, docs/devel/migration
of the release in use; backends/hostmem-file.c for mem-path, share and reserve).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from harness.guest.machine import Machine, Pairs

_BACKEND = re.compile(r"memory-backend-(?:memfd|ram),id=(?P<id>[a-z0-9]+),size=(?P<mib>\d+)M\b.*")


def memory_sizes(machine: Machine) -> dict[str, int]:
    """Backend id -> bytes, for every memory backend that can be put in a file."""
    found = (_BACKEND.fullmatch(value) for option, *rest in machine.args for value in rest)
    return {match["id"]: int(match["mib"]) << 20 for match in found if match}


def holding(machine: Machine) -> Machine:
    """The machine that stops once, where the guest's firmware asks for the kernel (our QEMU's
    hw/nvram/fw_cfg-hold.c). A state saved there, or later, is for such machines only."""
    return replace(machine, args=(*machine.args, ("-global", "fw_cfg_io.hold-kernel=on")))


def template(machine: Machine, ram: Mapping[str, int], state: int) -> Machine:
    """The machine that is booted to be saved. `ram`: backend id -> descriptor of its file.

    `state` is the descriptor that the device state will go to. Without `ram` the memory stays where
    it is and will be part of that state.
    """
    return replace(
        machine, args=_in_files(machine, ram, share=True), inherited=(*ram.values(), state)
    )


def restored(machine: Machine, ram: Mapping[str, int], state: int) -> Machine:
    """The machine that waits for the device state in `state`, over private maps of `ram`."""
    return waiting(
        replace(machine, args=_in_files(machine, ram, share=False), inherited=(*ram.values(),)),
        state,
    )


def waiting(machine: Machine, state: int) -> Machine:
    """The machine that runs nothing before the device state in `state` has been loaded."""
    return replace(
        machine,
        args=(*machine.args, ("-incoming", "defer")),
        inherited=(*machine.inherited, state),
    )


def _in_files(machine: Machine, ram: Mapping[str, int], *, share: bool) -> Pairs:
    def moved(value: str) -> str:
        match = _BACKEND.fullmatch(value)
        if match is None or match["id"] not in ram:
            return value
        # The descriptor, not the name: the file stays ours when the cache is swept meanwhile.
        # reserve=off: what the guest never touches costs nothing, however large it is.
        return (
            f"memory-backend-file,id={match['id']},size={match['mib']}M,"
            f"mem-path=/proc/self/fd/{ram[match['id']]},share={'on' if share else 'off'},"
            "reserve=off"
        )

    return tuple(
        (option, *(moved(value) for value in rest)) if option == "-object" else (option, *rest)
        for option, *rest in machine.args
    )
