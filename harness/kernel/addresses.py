# SPDX-License-Identifier: MIT
"""From "symbol+0x1/0x2" in a kernel's report to file and line, by addr2line as faddr2line does."""

from __future__ import annotations

import contextlib
import itertools
import re
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
    """A line of a call trace."""

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
    """For each frame's `where` "mm/slub.c:12, inlined at mm/slub.c:34", innermost first.

    What is not in `vmlinux`, or has no line, is left out: a module's function, assembly, a symbol
    that is there twice in the same size. Raises HostError where binutils are missing or fail.
    """
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
