# SPDX-License-Identifier: MIT
"""From addresses on a stack to symbols as the kernel prints them, and from those to file and line
(by addr2line, as faddr2line does)."""

import bisect
import contextlib
import itertools
import re
import struct
import subprocess
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import zstandard

from harness.base.status import HostError

VMLINUX = "vmlinux.zst"
"""Of a kernel built here, with line tables (-g1, see make.py)."""
_MAX_FRAMES = 200
_DEADLINE_S = 60
# arch/x86/kernel/dumpstack.c: printk_stack_address(): " ? symbol+0x1/0x2 [module]", after what
# printk() (kernel/printk/printk.c: print_prefix()) and, for RIP, show_iret_regs() put before it.
_FRAME = re.compile(
    r"^(?:\[[ 0-9.]+\](?:\[ *[TC]\d+\])? *)? *(?P<rip>RIP: \w+:)?(?P<guess>\? )?"
    r"(?P<where>(?P<symbol>[A-Za-z_][\w.]*)\+(?P<offset>0x[0-9a-f]+)/(?P<size>0x[0-9a-f]+))"
)


@dataclass(frozen=True)
class Frame:
    where: str
    """ "symbol+0xoffset/0xsize", offset and size in bytes."""
    symbol: str
    offset: int
    size: int
    returns: bool
    """It is the address that a call returns to, thus after the call; else what was executed."""


def frames(lines: Iterable[str]) -> tuple[Frame, ...]:
    """The call trace in `lines`, in order, without those that the kernel is unsure of ("?")."""
    found = (_FRAME.match(line) for line in lines)
    return tuple(
        Frame(m["where"], m["symbol"], int(m["offset"], 16), int(m["size"], 16), not m["rip"])
        for m in found
        if m and not m["guess"]
    )


def source_lines(vmlinux: Path, wanted: Sequence[Frame]) -> dict[str, str]:
    """For each frame's `where` "mm/slub.c:12, inlined at mm/slub.c:34", innermost first; left out
    is what is not in `vmlinux`, has no line, or is there twice. Raises HostError without
    binutils."""
    if not wanted:
        return {}
    with unpacked(vmlinux) as plain:
        places = _by_name_and_size(defined_symbols(plain))
        addresses = {}
        for frame in list(dict.fromkeys(wanted))[:_MAX_FRAMES]:
            candidates = places[frame.symbol, frame.size]
            if len(candidates) == 1:
                addresses[frame.where] = candidates[0] + frame.offset - frame.returns
        if not addresses:
            return {}
        said = _tool("addr2line", "-a", "-i", "-e", str(plain), *map(hex, addresses.values()))
    found = zip(addresses, _lines(said), strict=True)
    return {where: text for where, text in found if text and text[0] != "?"}


@contextlib.contextmanager
def unpacked(vmlinux: Path) -> Iterator[Path]:
    """A vmlinux, packed with zstd or not, as a plain file."""
    if vmlinux.suffix != ".zst":
        yield vmlinux
        return
    with tempfile.NamedTemporaryFile(prefix="cvm-vmlinux-") as plain:
        with vmlinux.open("rb") as packed:
            zstandard.ZstdDecompressor().copy_stream(packed, plain)
        plain.flush()
        yield Path(plain.name)


def defined_symbols(vmlinux: Path) -> list[tuple[int, str]]:
    """Address and name of every symbol of an unpacked vmlinux. Raises HostError."""
    fields = (line.split() for line in _tool("nm", "--defined-only", str(vmlinux)).splitlines())
    return [(int(part[0], 16), part[2]) for part in fields if len(part) == 3]


def annotate(lines: Iterable[str], known: dict[str, str]) -> tuple[str, ...]:
    """`lines` with file and line behind each frame that is known."""
    out = []
    for line in lines:
        found = frames([line])
        text = known.get(found[0].where) if found else None
        out.append(f"{line} ({text})" if text else line)
    return tuple(out)


def _tool(*argv: str) -> str:
    try:
        return subprocess.run(
            argv, capture_output=True, text=True, check=True, timeout=_DEADLINE_S
        ).stdout
    except FileNotFoundError as error:
        raise HostError(f"no {argv[0]}", hint="apt-get install binutils") from error
    except (OSError, subprocess.SubprocessError) as error:
        raise HostError(f"{argv[0]} failed: {error}") from error


def _by_name_and_size(places: Sequence[tuple[int, str]]) -> dict[tuple[str, int], list[int]]:
    """Addresses of symbols. One ends where the next begins, as for the kernel (kernel/kallsyms.c:
    get_symbol_pos()): its padding is counted."""
    ends = dict(itertools.pairwise(sorted({address for address, _ in places})))
    found: dict[tuple[str, int], list[int]] = defaultdict(list)
    for address, name in places:
        found[name, ends.get(address, address) - address].append(address)
    return found


def _lines(said: str) -> list[str]:
    """One text for each address: its lines, each function inlined into the one that follows."""
    records: list[list[str]] = []
    for line in said.splitlines():
        if line.startswith("0x"):
            records.append([])
        elif records:
            # Relative to the objects' directory, which lies in the source's. "(discriminator 2)"
            # tells branches of one line apart: of no use here.
            name = line.partition(" ")[0]
            records[-1].append(re.sub(r"^(?:\.{1,2}/)+", "", name))
    return [", inlined at ".join(record) for record in records]


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
_MAX_RETURNS = 24
_PT_LOAD = 1


@dataclass(frozen=True)
class KernelImage:
    segments: tuple[tuple[int, bytes], ...]
    """Address and content of what is loaded."""
    starts: tuple[int, ...]
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
    """ "RIP: 0010:symbol+0x1/0x2" and what lies on the stack and follows a call (without frame
    pointers an old one may be among it). Empty where `rip` is not in this kernel's code."""
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
    return (*head, *found[:_MAX_RETURNS])
