# SPDX-License-Identifier: MIT
"""Workloads that are one guest program: each fills memory in a way of its own."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from harness.base.status import UsageError
from harness.base.units import GIB, KIB, MIB, PAGE_SIZE, format_size
from harness.guest.guest import Guest
from harness.workloads.base import Notify, Program, WorkloadResult, deadline_for, parameter

_WORKERS = "Processes that do it at once."
_S_PER_OPERATION = 0.05
"""What a system call may take under TCG at worst: sets deadlines, not figures."""


@contextmanager
def tmpfs(guest: Guest, name: str, options: str = "size=100%,nr_inodes=0") -> Iterator[str]:
    """A tmpfs of its own in the guest; all that is in it is given back at the end."""
    path = f"/run/cvm-{name}"
    guest.run(f"mkdir -p {path} && mount -t tmpfs -o {options} none {path}")
    try:
        yield path
    finally:
        guest.run(f"umount {path}", check=False)


@contextmanager
def no_reserve(guest: Guest) -> Iterator[None]:
    """No memory of low zones kept back from user space (vm.lowmem_reserve_ratio): what is kept back
    may be unaccepted, and then stays so until the OOM killer comes."""
    ratio = "/proc/sys/vm/lowmem_reserve_ratio"
    before = " ".join(guest.run(["cat", ratio]).text.split())
    guest.run(f"echo {' '.join('0' for _ in before.split())} > {ratio}")
    try:
        yield
    finally:
        guest.run(f"echo {before} > {ratio}", check=False)


@contextmanager
def zero_device(guest: Guest, size: int) -> Iterator[str]:
    """A block device of zeros that takes no memory until it is read: a loop over a sparse file."""
    with tmpfs(guest, "device") as path:
        # The sparse file's holes are read without allocating: only the page cache grows.
        script = (
            f"truncate -s {size} {path}/zeros && device=$(losetup -f) && "
            f"losetup $device {path}/zeros && echo $device"
        )
        device = guest.run(script).text.strip()
        try:
            yield device
        finally:
            guest.run(f"losetup -d {device}", check=False)


@dataclass(frozen=True)
class Fill(Program):
    """Fill a tmpfs, or the page cache by reading a device."""

    bytes: int = parameter(0, "How much to fill.", kind="size", share=0.4)
    kind: str = parameter("tmpfs", "What to fill.", kind="choice", choices=("tmpfs", "page-cache"))
    chunk: int = parameter(64 * KIB, "Bytes of one operation.", kind="size")
    workers: int = parameter(1, _WORKERS)

    name = "fill"
    of_harness = frozenset({"kind"})

    def run(self, guest: Guest, notify: Notify) -> WorkloadResult:
        """Fill it. What was filled is given back at the end."""
        notify(f"filling {format_size(self.bytes)} of {self.kind}")
        deadline_s = deadline_for(self.bytes)
        if self.kind == "tmpfs":
            with tmpfs(guest, "fill") as path:
                return self.run_program(guest, deadline_s, "--path", f"{path}/file", "--write")
        with zero_device(guest, self.bytes) as device:
            return self.run_program(guest, deadline_s, "--path", device)


@dataclass(frozen=True)
class Slab(Program):
    """Many small kernel objects: the inodes and dentries of empty files."""

    files: int = parameter(50_000, "Files to make.")
    workers: int = parameter(1, _WORKERS)

    name = "slab"

    def run(self, guest: Guest, notify: Notify) -> WorkloadResult:
        notify(f"making {self.files:,} files")
        with tmpfs(guest, "slab") as path:
            return self.run_program(guest, 60 + self.files * _S_PER_OPERATION, "--path", path)


@dataclass(frozen=True)
class ForkStorm(Program):
    """Processes that fork, touch a little memory and die, many at a time."""

    forks: int = parameter(500, "Children in all.")
    bytes: int = parameter(4 * MIB, "Bytes that each child touches.", kind="size")
    alive: int = parameter(16, "Children alive at once, for each worker.")
    workers: int = parameter(2, "Processes that fork.")

    name = "fork-storm"

    def run(self, guest: Guest, notify: Notify) -> WorkloadResult:
        notify(f"forking {self.forks:,} children")
        deadline_s = deadline_for(self.forks * self.bytes) + self.forks * _S_PER_OPERATION
        return self.run_program(guest, deadline_s)


@dataclass(frozen=True)
class Atomic(Program):
    """Allocations that may not sleep (GFP_ATOMIC), made by the network's receive path."""

    datagrams: int = parameter(20_000, "Datagrams to send over the loopback interface.")
    listeners: int = parameter(64, "Packet sockets that each get a clone of each, never read.")
    payload: int = parameter(KIB, "Bytes of a datagram.", kind="size")

    name = "atomic"

    def run(self, guest: Guest, notify: Notify) -> WorkloadResult:
        notify(f"sending {self.datagrams:,} datagrams to {self.listeners} listeners")
        return self.run_program(guest, 60 + self.datagrams * _S_PER_OPERATION)


@dataclass(frozen=True)
class Mlock(Program):
    """Map and lock memory, chunk by chunk."""

    bytes: int = parameter(0, "How much to lock.", kind="size", share=0.4)
    chunk: int = parameter(2 * MIB, "Bytes of one operation.", kind="size")
    workers: int = parameter(1, _WORKERS)

    name = "mlock"

    def run(self, guest: Guest, notify: Notify) -> WorkloadResult:
        notify(f"locking {format_size(self.bytes)}")
        return self.run_program(guest, deadline_for(self.bytes))


@dataclass(frozen=True)
class Fragment(Program):
    """Touch small pages, give back every other one, then ask for huge pages."""

    bytes: int = parameter(0, "How much to fragment.", kind="size", share=0.3)
    thp_bytes: int = parameter(0, "How much to ask for as huge pages.", kind="size", share=0.2)

    name = "fragment"

    def run(self, guest: Guest, notify: Notify) -> WorkloadResult:
        """Fragment, then ask; the report counts the fallbacks to small pages."""
        notify(f"fragmenting {format_size(self.bytes)}")
        enabled = guest.run(["cat", "/sys/kernel/mm/transparent_hugepage/enabled"], check=False)
        if enabled.exit_status or "[never]" in enabled.text:
            raise UsageError("fragment: the guest's kernel gives no transparent huge pages")
        return self.run_program(guest, deadline_for(self.bytes + self.thp_bytes))


@dataclass(frozen=True)
class Churn(Program):
    """Threads that allocate, copy, search and free chunks, as the ebizzy benchmark does."""

    threads: int = parameter(2, "Threads.")
    chunk: int = parameter(256 * KIB, "Bytes of a chunk.", kind="size")
    seconds: int = parameter(5, "How long, on the guest's clock.")
    map: bool = parameter(False, "Map and unmap every chunk, instead of the heap.", kind="flag")

    name = "churn"

    def run(self, guest: Guest, notify: Notify) -> WorkloadResult:
        notify(f"allocating and freeing for {self.seconds} s")
        return self.run_program(guest, 120 + self.seconds * 20.0)


@dataclass(frozen=True)
class Drain(Program):
    """Have everything accepted that is not, without touching it: any guest size will do."""

    workers: int = parameter(1, _WORKERS)
    chunk: int = parameter(2 * MIB, "Bytes of one operation.", kind="size")
    leave: int = parameter(0, "How much to leave unaccepted.", kind="size")
    small_pages: bool = parameter(False, "Take 4 KiB pages, not huge ones.", kind="flag")

    name = "drain"
    of_harness = frozenset({"small_pages"})

    def run(self, guest: Guest, notify: Notify) -> WorkloadResult:
        """Drain until nr_unaccepted is no more than is to be left. Raises PreconditionError if it
        was not to begin with."""
        total = guest.run("awk '/^MemTotal/ {print $2}' /proc/meminfo").text.strip()
        size = int(total) * KIB if total.isdecimal() else 64 * GIB
        notify(f"having all of {format_size(size // PAGE_SIZE * PAGE_SIZE)} accepted")
        huge = "never" if self.small_pages else "always"
        with no_reserve(guest), tmpfs(guest, "drain", f"size=100%,huge={huge}") as path:
            return self.run_program(guest, deadline_for(size), "--path", path)
