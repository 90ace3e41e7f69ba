# SPDX-License-Identifier: MIT
"""Reads what harness/image/cpio.py writes."""

from collections.abc import Iterator

from harness.image.cpio import ALIGNMENT, Node


def read(data: bytes) -> Iterator[Node]:
    """The nodes of an uncompressed archive without the trailer."""
    at = 0
    while True:
        fields = [int(data[at + 6 + 8 * i : at + 14 + 8 * i], 16) for i in range(13)]
        mode, size, device, name_size = fields[1], fields[6], (fields[9], fields[10]), fields[11]
        name = data[at + 110 : at + 110 + name_size - 1].decode()
        start = at + 110 + name_size
        start += -start % ALIGNMENT
        if name == "TRAILER!!!":
            return
        yield Node(name, mode, data[start : start + size], device)
        at = start + size + -size % ALIGNMENT
