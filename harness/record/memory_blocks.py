# SPDX-License-Identifier: MIT
"""The guest's memory blocks (sysfs) and QEMU's memory devices: two views that must agree."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from harness.base.status import PreconditionError

READ_BLOCKS = (
    "cd /sys/devices/system/memory && grep -H . block_size_bytes auto_online_blocks && "
    "grep -H . memory*/state memory*/valid_zones; ls -d memory*/node*"
)
"""Prints what `parse_blocks` reads: three programs, however many blocks there are."""

_ATTRIBUTE = re.compile(r"(?:memory(\d{1,9})/)?([a-z_]{1,30}):(.{0,200})")
_NODE = re.compile(r"memory(\d{1,9})/node(\d{1,4})")
_MAX_LINES = 1 << 20
_STATES = ("online", "offline", "going-offline")


@dataclass(frozen=True)
class Block:
    """One memory block (Documentation/admin-guide/mm/memory-hotplug.rst, 6.12)."""

    number: int
    """N of memoryN; it begins at N * block size."""
    state: str
    """online, offline or going-offline."""
    zones: tuple[str, ...]
    """valid_zones: the zone it is in; while offline, those it could go to."""
    node: int | None
    """None while no node has it."""


@dataclass(frozen=True)
class MemoryBlocks:
    block_size: int
    """Bytes."""
    auto_online: str
    """What becomes of a new one."""
    blocks: Mapping[int, Block]

    def within(self, address: int, size: int) -> tuple[Block, ...]:
        """Those with a part in [address, address + size), ascending."""
        first, last = address // self.block_size, -(-(address + size) // self.block_size)
        return tuple(self.blocks[n] for n in sorted(self.blocks) if first <= n < last)


@dataclass(frozen=True)
class MemoryDevice:
    """One of QEMU's query-memory-devices (qapi/machine.json, 7.2)."""

    kind: str
    """dimm or virtio-mem."""
    id: str
    address: int
    """Guest-physical."""
    size: int
    """Bytes the guest has of it now; of a DIMM, all."""
    max_size: int
    """Bytes of address space."""
    node: int


def parse_blocks(text: str) -> MemoryBlocks:
    """What READ_BLOCKS printed. Raises PreconditionError; guest output is untrusted."""
    attributes: dict[tuple[str, str], str] = {}
    nodes: dict[int, int] = {}
    lines = text.splitlines()
    if len(lines) > _MAX_LINES:
        raise PreconditionError(f"the guest printed {len(lines)} lines about its memory blocks")
    for line in lines:
        if found := _NODE.fullmatch(line):
            nodes[int(found[1])] = int(found[2])
        elif found := _ATTRIBUTE.fullmatch(line):
            attributes[found[1] or "", found[2]] = found[3]
        else:
            raise PreconditionError(f"unreadable line about the guest's memory blocks: {line!r}")
    try:
        block_size = int(attributes["", "block_size_bytes"], 16)
        auto_online = attributes["", "auto_online_blocks"]
    except (KeyError, ValueError):
        raise PreconditionError(
            "the guest's kernel shows no memory blocks: it cannot hotplug memory",
            hint="build it with CONFIG_MEMORY_HOTPLUG=y (kernel-configs/hotplug.config)",
        ) from None
    if block_size < 1 << 20 or block_size & (block_size - 1):
        raise PreconditionError(f"the guest's memory block size is {block_size} bytes")
    blocks = {}
    for (number, name), state in attributes.items():
        if name != "state":
            continue
        if state not in _STATES:
            raise PreconditionError(f"memory block {number} is {state!r:.60}")
        zones = attributes.get((number, "valid_zones"), "none").split()
        zones = [zone for zone in zones if zone != "none"]
        blocks[int(number)] = Block(int(number), state, tuple(zones), nodes.get(int(number)))
    return MemoryBlocks(block_size, auto_online, blocks)


def parse_devices(answer: object) -> tuple[MemoryDevice, ...]:
    """QEMU's answer to query-memory-devices, by address. Raises PreconditionError."""
    devices = []
    try:
        for item in answer if isinstance(answer, list) else []:
            kind, data = item["type"], item["data"]
            place, most = ("addr", "size") if kind == "dimm" else ("memaddr", "max-size")
            numbers = (int(data[name]) for name in (place, "size", most, "node"))
            devices.append(MemoryDevice(kind, str(data.get("id", "")), *numbers))
    except (KeyError, TypeError, ValueError) as error:
        raise PreconditionError(
            f"QEMU's memory devices could not be read: {type(error).__name__}: {error}"
        ) from error
    return tuple(sorted(devices, key=lambda device: device.address))
