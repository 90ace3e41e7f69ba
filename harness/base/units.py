# SPDX-License-Identifier: MIT
"""Sizes: parsing what people type, printing what people read. All sizes are bytes."""

import re

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30
TIB = 1 << 40

PAGE_SIZE = 4 * KIB
"""x86 base page (arch/x86/include/asm/page_types.h)."""
UNIT_SIZE = 2 * MIB
"""EFI_UNACCEPTED_UNIT_SIZE on x86: PMD_SIZE (arch/x86/include/asm/efi.h, 6.12 and 7.3)."""
PAGES_PER_UNIT = UNIT_SIZE // PAGE_SIZE
MAX_ORDER_PAGES = 1024
"""Pages in one MAX_PAGE_ORDER (order 10) block, the grain of zone->unaccepted_pages."""

_SUFFIXES = {"": 1, "B": 1, "K": KIB, "M": MIB, "G": GIB, "T": TIB}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", re.IGNORECASE)


def parse_size(text: str) -> int:
    """Bytes meant by `text`: "4G", "512MiB", "2700M", "4096". Raises ValueError."""
    match = _SIZE.fullmatch(text.strip())
    if not match:
        raise ValueError(f"not a size: {text!r} (write 4G, 2700M, 512MiB or bytes)")
    value = float(match[1]) * _SUFFIXES[match[2].upper()]
    if value != int(value) or value <= 0:
        raise ValueError(f"not a whole, positive number of bytes: {text!r}")
    return int(value)


def format_size(size: int) -> str:
    """`size` bytes in the largest binary unit that keeps it readable: "4 GiB", "62.1 GiB"."""
    for unit, name in ((TIB, "TiB"), (GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")):
        if abs(size) >= unit:
            return f"{size / unit:.4g} {name}"
    return f"{size} B"


def format_ns(duration_ns: float) -> str:
    """A duration given in nanoseconds, in the unit people would use: "1.31 ms"."""
    for unit, name in ((1e9, "s"), (1e6, "ms"), (1e3, "µs")):
        if abs(duration_ns) >= unit:
            return f"{duration_ns / unit:.3g} {name}"
    return f"{duration_ns:.0f} ns"


def format_duration(seconds: float) -> str:
    """How long something takes a person to wait for: "2 h 05 min", "3 min 10 s", "4.2 s"."""
    if seconds < 60:
        return f"{seconds:.2g} s" if seconds < 9.95 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02} s"
    return f"{minutes // 60} h {minutes % 60:02} min"
