# SPDX-License-Identifier: MIT
"""The stream of the guest's `cvm trace` (guest-images/minimal/src/trace.c): frames of three
little-endian 32-bit numbers (kind, number, bytes) and bytes: a CPU's trace pages, or comms."""

import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from harness.base.status import PreconditionError

_HEADER = struct.Struct("<III")
_PAGES, _COMMS, _END = 1, 2, 3
_MAX_CPUS = 4096
_CHUNK_BYTES = 8 << 20
"""Pages handed out at once: bounds the memory whatever the trace's length."""
_COMM = re.compile(r"^(\d{1,10}) (.{1,64})$", re.MULTILINE)

Bytes = npt.NDArray[np.uint8]


class FileStream:
    """A stream in a file, read piece by piece. Not mapped: what is read of a map stays in this
    process' memory, and a trace may be larger than that is to be."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.size = path.stat().st_size

    def __getitem__(self, part: slice) -> Bytes:
        start, stop, _ = part.indices(self.size)
        return np.fromfile(self._path, np.uint8, count=max(stop - start, 0), offset=start)


@dataclass(frozen=True)
class Frames:
    """Where in the stream each CPU's pages are, and which task had which name."""

    data: Bytes | FileStream
    pages: Mapping[int, tuple[tuple[int, int], ...]]
    """CPU -> (offset, bytes) of each of its frames, in order."""
    comms: Mapping[int, str]
    """pid -> comm as far as the kernel remembered (tracefs saved_cmdlines)."""

    def chunks(self, cpu: int) -> Iterator[Bytes]:
        """The pages of one CPU in pieces of whole pages and bounded size."""
        held: list[Bytes] = []
        size = 0
        for offset, length in self.pages[cpu]:
            held.append(self.data[offset : offset + length])
            size += length
            if size >= _CHUNK_BYTES:
                yield np.concatenate(held)
                held, size = [], 0
        if held:
            yield np.concatenate(held)


def parse_frames(data: Bytes | FileStream) -> Frames:
    """Find the frames in a whole stream. Raises PreconditionError where it is cut off or none: a
    part of a trace is never taken for the whole."""
    pages: dict[int, list[tuple[int, int]]] = {}
    comms: dict[int, str] = {}
    at = 0
    while True:
        if at + _HEADER.size > data.size:
            raise PreconditionError("the trace was cut off: its end never came")
        kind, number, length = _HEADER.unpack(data[at : at + _HEADER.size].tobytes())
        at += _HEADER.size
        if kind == _END:
            break
        if at + length > data.size:
            raise PreconditionError("the trace was cut off in the middle of a frame")
        if kind == _PAGES and number < _MAX_CPUS:
            pages.setdefault(number, []).append((at, length))
        elif kind == _COMMS:
            comms = parse_comms(data[at : at + length].tobytes())
        else:
            raise PreconditionError(f"not a frame of a trace: kind {kind}, number {number}")
        at += length
    if at != data.size or length:
        raise PreconditionError("the trace goes on after its end")
    return Frames(data, {cpu: tuple(found) for cpu, found in sorted(pages.items())}, comms)


def parse_comms(text: bytes) -> dict[int, str]:
    """pid -> comm from tracefs saved_cmdlines (kernel/trace/trace_sched_switch.c, 6.12)."""
    lines = text.decode("utf-8", "backslashreplace")
    comms = {
        int(m[1]): "".join(c if c.isprintable() else "?" for c in m[2])
        for m in _COMM.finditer(lines)
    }
    return {0: "<idle>", **comms}
