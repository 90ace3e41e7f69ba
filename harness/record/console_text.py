# SPDX-License-Identifier: MIT
"""A run's console as text to show: read in bounded memory, and nothing in it takes effect."""

import itertools
from collections import deque
from collections.abc import Iterator
from pathlib import Path

from harness.base.text import printable
from harness.record.console import MAX_LINE, ConsoleScanner, Splat

_CHUNK = 1 << 20
_MAX_LINE = 1000
"""Characters of a line that are shown."""


def tail(path: Path, *, max_bytes: int = 64 << 10, lines: int = 200) -> list[str]:
    """The last `lines` lines within the last `max_bytes` bytes; [] where there is no file."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - max_bytes))
            found = file.read(max_bytes).splitlines()
    except OSError:
        return []
    return [shown(line) for line in (found[1:] if size > max_bytes else found)[-lines:]]


def shown(line: bytes) -> str:
    """One line made inert, and cut where it is longer than a person would read."""
    text = printable(line[:MAX_LINE].rstrip(b"\r\n"))
    return text if len(text) <= _MAX_LINE else text[:_MAX_LINE] + "…"


def splats(path: Path, *, max_bytes: int = 16 << 20) -> tuple[Splat, ...]:
    """The reports of trouble in the console's last `max_bytes`; () where there is no file."""
    scanner = ConsoleScanner()
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - max_bytes))
            while piece := file.read(_CHUNK):
                scanner.feed(piece, 0)
    except OSError:
        return ()
    scanner.close(0)
    return scanner.splats


def around(
    path: Path, line: str, *, before: int = 12, after: int = 60
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The lines before and after the first that holds `line`, as `printable` shows it."""
    earlier: deque[str] = deque(maxlen=before)
    lines = map(shown, _lines(path))
    for text in lines:
        if line[:_MAX_LINE] in text:
            return tuple(earlier), tuple(itertools.islice(lines, after))
        earlier.append(text)
    return (), ()


def _lines(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            while piece := file.readline(_CHUNK):
                yield piece
    except OSError:
        return
