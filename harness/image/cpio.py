# SPDX-License-Identifier: MIT
"""Initramfs archives ("newc" cpio, driver-api/early-userspace/buffer-format.rst) written without
root and reproducibly: times are 0, owners root, inode numbers count from 1 in order of names."""

import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath

_HEADER = "070701" + "{:08X}" * 13
_TRAILER = "TRAILER!!!"
ALIGNMENT = 4
"""An uncompressed archive must start at a multiple of this in the initrd (init/initramfs.c)."""


@dataclass(frozen=True)
class Node:
    """One file system object. `path` is relative to the root and has no "." or ".." parts."""

    path: str
    mode: int
    data: bytes = b""
    """A file's content or a symbolic link's target."""
    device: tuple[int, int] = (0, 0)

    def __post_init__(self) -> None:
        parts = self.path.split("/")
        if self.path == _TRAILER or "\0" in self.path or any(p in ("", ".", "..") for p in parts):
            raise ValueError(f"not a path inside an archive: {self.path!r}")


def file(path: str, data: bytes, mode: int = 0o644) -> Node:
    return Node(path, stat.S_IFREG | mode, data)


def directory(path: str, mode: int = 0o755) -> Node:
    """A directory. Parents of a node need not be given: `archive` adds them with mode 0755."""
    return Node(path, stat.S_IFDIR | mode)


def symlink(path: str, target: str) -> Node:
    return Node(path, stat.S_IFLNK | 0o777, target.encode())


def character_device(path: str, major: int, minor: int, mode: int) -> Node:
    return Node(path, stat.S_IFCHR | mode, device=(major, minor))


def archive(nodes: Iterable[Node]) -> bytes:
    """The archive of `nodes` and the directories above them, sorted, so parents come first. Of two
    nodes with one path the later one counts."""
    chosen = {node.path: node for node in nodes}
    parents = {str(p) for path in chosen for p in PurePosixPath(path).parents} - {"."}
    every = {path: directory(path) for path in parents} | chosen
    out = bytearray()
    # By parts, so that a directory is followed by what is in it.
    for number, path in enumerate(sorted(every, key=lambda path: path.split("/")), start=1):
        node = every[path]
        links = 2 if stat.S_ISDIR(node.mode) else 1
        _append(out, path, node.mode, number, links, node.data, node.device)
    _append(out, _TRAILER, mode=0, number=0, links=1)
    return bytes(out)


def _append(
    out: bytearray,
    path: str,
    mode: int,
    number: int,
    links: int,
    data: bytes = b"",
    device: tuple[int, int] = (0, 0),
) -> None:
    name = path.encode()
    # Inode, mode, uid, gid, links, mtime, size, device of the file (2), of the node (2), name, sum.
    fields = (number, mode, 0, 0, links, 0, len(data), 0, 0, *device, len(name) + 1, 0)
    out += _HEADER.format(*fields).encode() + name + b"\0"
    out += bytes(-len(out) % ALIGNMENT)
    out += data
    out += bytes(-len(out) % ALIGNMENT)
