# SPDX-License-Identifier: MIT
"""What goes into each layer of the `minimal` image. A layer is a list of cpio nodes."""

import dataclasses
from collections.abc import Iterable
from pathlib import Path

from harness.base.resources import carried
from harness.image import cpio, hosttools
from harness.image.cpio import Node

RECIPE = carried("guest-images") / "minimal"
"""C sources in src/, plain files in root/."""
OPTIONAL = {"stress-ng": "stress-ng", "kexec": "kexec"}
"""Optional layers: name -> the host's program in it."""
_STATISTICS = (
    *(b"timer_list", b"interrupts", b"loadavg", b"vmstat"),
    *(b"net/netstat", b"net/dev", b"net/tcp", b"net/rt_cache"),
)
"""Files of /proc: what is in them is random to dropbear."""
_NOT_LINKED = {"bin/busybox", "linuxrc", "sbin/init"}
"""busybox itself, and two names under which it would be PID 1."""


def sources() -> list[Path]:
    return sorted((RECIPE / "src").glob("*.c"))


def base_inputs() -> list[Path]:
    """Every file the base layer is made from (the compiler apart)."""
    dropbear = hosttools.find("dropbear")
    return [
        *sorted((RECIPE / "src").iterdir()),
        *sorted(path for path in (RECIPE / "root").rglob("*") if path.is_file()),
        hosttools.find("busybox"),
        dropbear,
        *hosttools.libraries(dropbear),
    ]


def base(cvm: Path) -> list[Node]:
    """busybox, dropbear, our program and /init. `cvm` is the compiled program."""
    busybox = hosttools.find("busybox")
    hosttools.require_static(busybox, "busybox-static")
    applets = hosttools.applets(busybox)
    nodes = [
        cpio.directory("root", 0o700),
        cpio.directory("tmp", 0o1777),
        *(cpio.directory(name) for name in ("dev", "proc", "sys", "run", "var/log", "mnt")),
        # The kernel opens /dev/console for PID 1 before devtmpfs is mounted (init/main.c).
        cpio.character_device("dev/console", 5, 1, 0o600),
        cpio.character_device("dev/null", 1, 3, 0o666),
        cpio.file("usr/bin/cvm", cvm.read_bytes(), 0o755),
        cpio.symlink("init", "/usr/bin/cvm"),
        cpio.symlink("etc/mtab", "/proc/mounts"),
        cpio.symlink("var/run", "/run"),
        cpio.file("bin/busybox", busybox.read_bytes(), 0o755),
        *(cpio.symlink(path, "/bin/busybox") for path in applets if path not in _NOT_LINKED),
        *_sshd(),
    ]
    root = RECIPE / "root"
    for path in sorted(path for path in root.rglob("*") if path.is_file()):
        nodes.append(cpio.file(path.relative_to(root).as_posix(), path.read_bytes()))
    return nodes


def _sshd() -> list[Node]:
    """dropbear, of which each connection seeds itself from the kernel's random numbers alone."""
    where = "usr/sbin/dropbear"
    nodes = program("dropbear", where)
    return [
        dataclasses.replace(node, data=without_statistics(node.data))
        if node.path == where
        else node
        for node in nodes
    ]


def without_statistics(dropbear: bytes) -> bytes:
    """The program with other names for the files of /proc that it reads beside /dev/urandom, for
    each connection anew and to no purpose where the kernel's generator is seeded (seedrandom(),
    src/dbrandom.c): it does without those that are not there. They took a restored guest longer
    than the key exchange does."""
    for name in _STATISTICS:
        dropbear = dropbear.replace(b"\0/proc/" + name + b"\0", b"\0/none/" + name + b"\0")
    return dropbear


def program(name: str, where: str) -> list[Node]:
    """The host's program `name` at `where`, with its libraries at the paths they have on the host,
    which are those that its loader searches."""
    binary = hosttools.find(name)
    return [cpio.file(where, binary.read_bytes(), 0o755), *_copies(hosttools.libraries(binary))]


def optional(name: str) -> list[Node]:
    """An optional layer, without what the base layer has."""
    shared = {str(path) for path in hosttools.libraries(hosttools.find("dropbear"))}
    nodes = program(OPTIONAL[name], f"usr/bin/{OPTIONAL[name]}")
    if name == "stress-ng":
        # glibc loads it with dlopen() when a thread is cancelled; ldd does not show that.
        nodes += _copies([hosttools.compiler_library("libgcc_s.so.1")])
    return [node for node in nodes if f"/{node.path}" not in shared]


def _copies(paths: Iterable[Path]) -> list[Node]:
    return [cpio.file(str(path).lstrip("/"), path.read_bytes(), 0o755) for path in paths]
