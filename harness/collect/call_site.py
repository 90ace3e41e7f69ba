# SPDX-License-Identifier: MIT
"""Where one kernel function calls another: the place for kprobes where the callee takes none. Read
in the guest from /proc/kcore, as it is after boot-time patching (E8: Intel SDM volume 2, CALL)."""

import re
import struct

from harness.guest.guest import Guest

CALL_SIZE = 5
"""Bytes of a direct call: the callee returns to the instruction behind them."""
_OPCODE = 0xE8
_PAGE = 4096
_MAX_SEGMENTS = 1000
_PT_LOAD = 1
_ELF64 = b"\x7fELF\x02\x01"
_SYMBOL = re.compile(r"^([0-9a-f]{16}) [tT] (\S{1,100})$", re.MULTILINE)


def call_site(guest: Guest, caller: str, callee: str) -> int | None:
    """The offset in `caller` of its first direct call of `callee`; None where it is not seen."""
    # Fixed strings: busybox' grep takes three times as long over these 10 MB for an expression.
    grep = ["grep", "-F", "-e", caller, "-e", callee, "/proc/kallsyms"]
    found = {name: int(at, 16) for at, name in _SYMBOL.findall(guest.run(grep, check=False).text)}
    if not found.get(caller) or not found.get(callee):  # 0 where kptr_restrict hides them
        return None
    at = file_offset(_read(guest, 0, 2), found[caller])
    if at is None:
        return None
    first, within = divmod(at, _PAGE)
    code = _read(guest, first, 2)[within:]
    return find_call(code, found[caller], found[callee])


def _read(guest: Guest, page: int, count: int) -> bytes:
    dd = f"dd if=/proc/kcore bs={_PAGE} skip={page} count={count} 2>/dev/null"
    return guest.run(dd, check=False, max_output=count * _PAGE).stdout


def file_offset(headers: bytes, address: int) -> int | None:
    """Where the memory at `address` is in an ELF64 file; None where its loadable segments, as far
    as they are among `headers`, have it not (System V ABI, "Program Header")."""
    if headers[:6] != _ELF64 or len(headers) < 64:
        return None
    (first,) = struct.unpack_from("<Q", headers, 32)
    size, count = struct.unpack_from("<HH", headers, 54)
    for number in range(min(count, _MAX_SEGMENTS)):
        at = first + number * size
        if at + 56 > len(headers):
            break
        kind, _, offset, start, _, length = struct.unpack_from("<IIQQQQ", headers, at)
        if kind == _PT_LOAD and start <= address < start + length:
            return int(offset + address - start)
    return None


def find_call(code: bytes, address: int, callee: int) -> int | None:
    """The offset in `code`, which lies at `address`, of the first direct call of `callee`."""
    for at in range(len(code) - CALL_SIZE + 1):
        if code[at] == _OPCODE:
            (distance,) = struct.unpack_from("<i", code, at + 1)
            if address + at + CALL_SIZE + distance == callee:
                return at
    return None
