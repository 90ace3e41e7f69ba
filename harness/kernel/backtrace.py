# SPDX-License-Identifier: MIT
"""A call trace from what QEMU saw of a stopped vCPU, in the words in which the kernel prints one.

The kernel does this from inside in an oops; one stopped before an illegal access prints nothing.
Where the kernel was moved to (KASLR) is found by comparing the instructions at RIP with vmlinux.
"""

from __future__ import annotations

import bisect
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.base.status import HostError
from harness.kernel.addresses import defined_symbols, unpacked

_ALIGN = 2 << 20
"""Granule of virtual KASLR: CONFIG_PHYSICAL_ALIGN (arch/x86/Kconfig, 6.12)."""
_MOST = 1 << 30
"""Room that KASLR has: KERNEL_IMAGE_SIZE (arch/x86/include/asm/page_64_types.h, 6.12)."""
_KERNEL_HALF = 1 << 63
_ALIKE = 0.7
"""Share of the bytes at RIP that must agree: alternatives and static calls are patched at boot."""
_CALL = 0xE8
"""call rel32; indirect ones go through it too where the kernel is built with retpolines."""
_CALL_BYTES = 5
_MAX_FRAMES = 24
_PT_LOAD = 1


@dataclass(frozen=True)
class KernelImage:
    """Code and symbols of a vmlinux."""

    segments: tuple[tuple[int, bytes], ...]
    """Address and content of what is loaded."""
    starts: tuple[int, ...]
    """Symbols' addresses, ascending."""
    names: tuple[str, ...]
    text: tuple[int, int]
    """_stext and _etext."""

    def bytes_at(self, address: int, count: int) -> bytes:
        """What is at an address as linked; shorter where it is not all in the file."""
        for start, content in self.segments:
            if start <= address < start + len(content):
                return content[address - start : address - start + count]
        return b""

    def name(self, address: int) -> str:
        """ "symbol+0xoffset/0xsize" as the kernel prints it; "" where it is no code."""
        if not self.text[0] <= address < self.text[1]:
            return ""
        at = bisect.bisect_right(self.starts, address) - 1
        end = self.starts[at + 1] if at + 1 < len(self.starts) else self.text[1]
        start = self.starts[at]
        return f"{self.names[at]}+{address - start:#x}/{end - start:#x}"


def load_image(vmlinux: Path) -> KernelImage:
    """From a vmlinux, packed with zstd or not. Raises HostError where it is none, OSError."""
    with unpacked(vmlinux) as plain:
        symbols = dict(sorted(defined_symbols(plain)))
        segments = tuple(_segments(plain.read_bytes()))
    edges = [next((a for a, n in symbols.items() if n == name), 0) for name in ("_stext", "_etext")]
    return KernelImage(segments, tuple(symbols), tuple(symbols.values()), (edges[0], edges[1]))


def _segments(elf: bytes) -> Iterator[tuple[int, bytes]]:
    if elf[:6] != b"\x7fELF\x02\x01":
        raise HostError("vmlinux is not an ELF file of 64 bits")
    offset, size, count = (
        *struct.unpack_from("<Q", elf, 0x20),
        *struct.unpack_from("<HH", elf, 0x36),
    )
    for number in range(count):
        kind, _, at, virtual, _, length = struct.unpack_from("<IIQQQQ", elf, offset + number * size)
        if kind == _PT_LOAD:
            yield virtual, elf[at : at + length]


def moved_by(image: KernelImage, rip: int, code: bytes) -> int | None:
    """How far KASLR moved the kernel, by the bytes `code` at `rip`; None where they are not its."""
    first, last = image.text
    best: tuple[float, int] | None = None
    for offset in range(0, _MOST, _ALIGN):
        if first <= rip - offset < last:
            there = image.bytes_at(rip - offset, len(code))
            alike = sum(a == b for a, b in zip(there, code, strict=False)) / max(len(code), 1)
            best = max(best or (0.0, 0), (alike, offset))
    return best[1] if best and best[0] >= _ALIKE else None


def call_trace(image: KernelImage, rip: int, code: bytes, stack: Sequence[int]) -> tuple[str, ...]:
    """ "RIP: 0010:symbol+0x1/0x2" and a line for each return address on the stack.

    Without frame pointers that is what lies there and follows a call: an old one may be among them.
    Empty where `rip` is not in this kernel's code.
    """
    offset = moved_by(image, rip, code) if rip >= _KERNEL_HALF else None
    if offset is None:
        return ()
    found = []
    for word in stack:
        address = word - offset
        before = image.bytes_at(address - _CALL_BYTES, 1)
        if before and before[0] == _CALL and (name := image.name(address)):
            found.append(f" {name}")
    head = (f"RIP: 0010:{image.name(rip - offset)}", "Call Trace (from the stack):")
    return (*head, *found[:_MAX_FRAMES])
