# SPDX-License-Identifier: MIT
"""Binary ftrace pages (trace_pipe_raw) to arrays, all pages at once so that the work is numpy's.
Layout: include/linux/ring_buffer.h and kernel/trace/ring_buffer.c, the same in 6.12 and 7.3."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from harness.base.status import PreconditionError

PAGE_BYTES = 4096
_HEADER_BYTES = 16
_COMMIT_MASK = np.uint64((1 << 30) - 1)
_MISSED_EVENTS = np.uint64(1 << 31)
_MISSED_STORED = np.uint64(1 << 30)
_PADDING, _TIME_EXTEND, _TIME_STAMP = 29, 30, 31
_PAGES_AT_ONCE = 16384
"""64 MiB of pages: bounds the memory whatever the trace's length."""

_FIELD = re.compile(
    r"^\s*field:(?P<type>[^;]{1,100}?)\s*\b(?P<name>\w{1,60})(?:\[(?P<count>\d{0,4})\])?;"
    r"\s*offset:(?P<offset>\d{1,4});\s*size:(?P<size>\d{1,4});\s*signed:(?P<signed>[01]);",
    re.MULTILINE,
)
_ID = re.compile(r"^ID: (\d{1,5})$", re.MULTILINE)


@dataclass(frozen=True)
class EventFormat:
    """One event's binary layout, from tracefs events/*/*/format."""

    number: int
    dtype: np.dtype[np.void]


def parse_format(text: str) -> EventFormat:
    """The layout that a format file describes. Raises PreconditionError."""
    number = _ID.search(text)
    fields = list(_FIELD.finditer(text))
    if not number or not fields:
        raise PreconditionError(f"not an event's format: {text[:100]!r}")
    names, formats, offsets = [], [], []
    for field in fields:
        size = int(field["size"])
        if size not in (1, 2, 4, 8) or field["count"] is not None:
            raise PreconditionError(f"field {field['name']!r} is not an integer")
        names.append(field["name"])
        formats.append(f"<{'i' if field['signed'] == '1' else 'u'}{size}")
        offsets.append(int(field["offset"]))
    # What follows the last field is padding that the kernel need not send.
    end = max(offset + int(form[2:]) for offset, form in zip(offsets, formats, strict=True))
    if len(set(names)) != len(names) or "common_type" not in names:
        raise PreconditionError("an event's format names a field twice, or lacks common_type")
    dtype = np.dtype({"names": names, "formats": formats, "offsets": offsets, "itemsize": end})
    return EventFormat(int(number[1]), dtype)


@dataclass(frozen=True)
class Batch:
    """Some events of one CPU, in the order in which they were written."""

    time_ns: npt.NDArray[np.uint64]
    fields: npt.NDArray[np.void]
    """One structured element an event, with the format's field names."""
    missed: int
    """Events that the ring buffer says it dropped between these pages."""
    missed_unknown: bool
    """Whether it dropped some and did not say how many."""
    at: npt.NDArray[np.int64]
    """Where each event is among the pages: orders events of several layouts."""


def read_batches(pages: npt.NDArray[np.uint8], layout: EventFormat) -> Iterator[Batch]:
    """The events with `layout` among one CPU's `pages`, a bounded batch at a time. Raises
    PreconditionError where these are not whole ring-buffer pages."""
    for batches in read_mixed(pages, (layout,)):
        yield batches[0]


def read_mixed(
    pages: npt.NDArray[np.uint8], layouts: Sequence[EventFormat]
) -> Iterator[list[Batch]]:
    """The same for several layouts at once: a batch for each, from the same pages."""
    if pages.size % PAGE_BYTES:
        raise PreconditionError(f"{pages.size} bytes of trace are not whole pages")
    for start in range(0, pages.size, _PAGES_AT_ONCE * PAGE_BYTES):
        yield _read(np.array(pages[start : start + _PAGES_AT_ONCE * PAGE_BYTES]), layouts)


def _read(pages: npt.NDArray[np.uint8], layouts: Sequence[EventFormat]) -> list[Batch]:
    grid = pages.reshape(-1, PAGE_BYTES)
    header = grid[:, :_HEADER_BYTES].copy().view("<u8")
    stamp, commit = header[:, 0].copy(), header[:, 1]
    committed = (commit & _COMMIT_MASK).astype(np.int64)
    if committed.size and committed.max() > PAGE_BYTES - _HEADER_BYTES:
        raise PreconditionError("a trace page claims more than a page of events")
    missed, unknown = _missed(grid, commit, committed)

    words = pages.view("<u4").reshape(-1, PAGE_BYTES // 4)
    page = np.nonzero(committed > 0)[0]
    position = np.full(len(page), _HEADER_BYTES, dtype=np.int64)
    found: list[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.uint64]]] = []
    while len(page):
        word = words[page, position // 4].astype(np.uint64)
        kind = (word & np.uint64(31)).astype(np.int64)
        delta = word >> np.uint64(5)
        following = np.minimum(position // 4 + 1, PAGE_BYTES // 4 - 1)
        array0 = words[page, following].astype(np.uint64)
        size = np.select(
            [kind == 0, kind == _PADDING, kind >= _TIME_EXTEND],
            [4 + array0.astype(np.int64), 4 + array0.astype(np.int64), 8],
            4 + 4 * kind,
        )
        end = _HEADER_BYTES + committed[page]
        # Padding with no delta fills the rest of its page.
        size = np.where((kind == _PADDING) & (delta == 0), end - position, size)
        if np.any(size < 4) or np.any(position + size > end) or np.any(size % 4):
            raise PreconditionError("an event in a trace page runs over the page's end")
        extend, absolute = kind == _TIME_EXTEND, kind == _TIME_STAMP
        long_delta = (array0 << np.uint64(27)) + delta
        moved = stamp[page] + np.where(extend, long_delta, delta)
        high = stamp[page] & np.uint64(0xF800000000000000)
        stamp[page] = np.where(absolute, high | long_delta, moved)
        data = (kind <= 28) & (size >= 8)
        skip = np.where(kind == 0, 8, 4)
        found.append((page[data], (position + skip)[data], stamp[page][data]))
        position = position + size
        left = position < end
        page, position = page[left], position[left]
    return _gather(pages, found, layouts, missed, unknown)


def _missed(
    grid: npt.NDArray[np.uint8], commit: npt.NDArray[np.uint64], committed: npt.NDArray[np.int64]
) -> tuple[int, bool]:
    flagged = np.nonzero(commit & _MISSED_EVENTS)[0]
    total, unknown = 0, False
    for row in flagged:
        at = _HEADER_BYTES + int(committed[row])
        if commit[row] & _MISSED_STORED and at + 8 <= PAGE_BYTES:
            total += int(grid[row, at : at + 8].copy().view("<u8")[0])
        else:
            unknown = True
    return total, unknown


def _gather(
    pages: npt.NDArray[np.uint8],
    found: list[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.uint64]]],
    layouts: Sequence[EventFormat],
    missed: int,
    unknown: bool,
) -> list[Batch]:
    empty = (np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.uint64))
    page, offset, stamp = map(np.concatenate, zip(empty, *found, strict=True))
    at = page * PAGE_BYTES + offset
    order = np.argsort(at, kind="stable")
    at, stamp = at[order], stamp[order]
    number = pages[at].astype(np.uint16) | (pages[at + 1].astype(np.uint16) << np.uint16(8))
    batches = []
    for layout in layouts:
        width = layout.dtype.itemsize
        mine = (number == layout.number) & (at % PAGE_BYTES + width <= PAGE_BYTES)
        rows = np.lib.stride_tricks.sliding_window_view(pages, width)[at[mine]]
        fields = np.ascontiguousarray(rows).view(layout.dtype).reshape(-1)
        batches.append(Batch(stamp[mine], fields, missed, unknown, at[mine]))
    return batches
