# SPDX-License-Identifier: MIT
"""Reads of guest-physical memory through /proc/kcore and /proc/vmcore, ELF files of memory."""

import struct

from harness.base.units import PAGE_SIZE
from harness.suite.subject import Subject

KCORE = "/proc/kcore"
VMCORE = "/proc/vmcore"
_HEADER = struct.Struct("<16x2xHIQQQIHHHHHH")
_PROGRAM = struct.Struct("<IIQQQQQQ")
_PT_LOAD = 1
_MAX_ENTRIES = 128


def core_offset(subject: Subject, core: str, physical: int) -> int | None:
    """Where in the file `core` a guest-physical address is (by p_paddr), None if nowhere. Raises
    PreconditionError if the file is no ELF."""
    head = subject.run.guest.run(f"dd if={core} bs=4096 count=2 2>/dev/null").stdout
    subject.require(head[:4] == b"\x7fELF" and len(head) >= _HEADER.size, f"{core} is no ELF")
    fields = _HEADER.unpack_from(head)
    table, entry_size, entries = fields[3], fields[7], fields[8]
    for index in range(min(entries, _MAX_ENTRIES)):
        place = table + index * entry_size
        if place + _PROGRAM.size > len(head):
            break
        kind, _, offset, _, paddr, size, _, _ = _PROGRAM.unpack_from(head, place)
        if kind == _PT_LOAD and paddr <= physical < paddr + size:
            return int(offset + physical - paddr)
    return None


def read_core(subject: Subject, core: str, physical: int, pages: int) -> int:
    """Read `pages` pages of `core` from a guest-physical address on; how many bytes came."""
    offset = core_offset(subject, core, physical)
    if offset is None:
        return 0
    script = f"dd if={core} bs={PAGE_SIZE} skip={offset // PAGE_SIZE} count={pages} 2>/dev/null"
    return int(subject.sh(f"{script} | wc -c").strip() or 0)
