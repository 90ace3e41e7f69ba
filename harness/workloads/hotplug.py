# SPDX-License-Identifier: MIT
"""Memory plugged, used and unplugged in a running guest. What is kept in use is a file in tmpfs: it
stays while others allocate, its pages can migrate, its content tells if they came through."""

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from harness.base.status import GuestFailure, UsageError
from harness.base.units import GIB, MIB, format_size
from harness.collect.readings import read_counters
from harness.guest.guest import Guest
from harness.guest.hotplug import Hotplug
from harness.workloads.base import Notify, Workload, WorkloadResult, parameter
from harness.workloads.touch import Touch

_DIRECTORY = "/run/cvm-fill"
_PIECE = 8 * MIB
_S_PER_GIB = 240.0
"""What writing or summing a GiB may take under TCG on a busy host: sets deadlines, not figures."""


@contextlib.contextmanager
def filled(guest: Guest, size: int, *, verify: bool = True) -> Iterator[None]:
    """`size` bytes of tmpfs in use, in pieces of 8 MiB of different content. With `verify` raises
    GuestFailure if the content of one has changed when the block ends."""
    pieces = max(1, size // _PIECE)
    deadline_s = 60 + size / GIB * _S_PER_GIB
    guest.run(
        f"mkdir -p {_DIRECTORY} && mount -t tmpfs -o size=100% none {_DIRECTORY} && "
        f"cd {_DIRECTORY} && head -c {MIB} /dev/urandom > /run/cvm-piece && "
        f"cat {' '.join(['/run/cvm-piece'] * (_PIECE // MIB))} > /run/cvm-pieces && "
        f"for i in $(seq 1 {pieces}); do "
        "{ cat /run/cvm-pieces; printf %016d $i; } > $i || exit 1; done && "
        f"rm /run/cvm-piece /run/cvm-pieces && {'md5sum * > /run/cvm-sums' if verify else ':'}",
        deadline_s=deadline_s,
    )
    try:
        yield
        if not verify:
            return
        said = guest.run(
            f"cd {_DIRECTORY} && md5sum -c /run/cvm-sums | grep -v ': OK$'",
            deadline_s=deadline_s,
            check=False,
        )
        if said.exit_status != 1 or said.stdout:
            raise GuestFailure(
                f"of {format_size(size)} of files some lost their content while memory was plugged "
                f"and unplugged under them",
                details=[(said.text + said.stderr.decode(errors="replace")).strip()[:300]],
            )
    finally:
        guest.run(f"cd / && umount {_DIRECTORY}", deadline_s=deadline_s, check=False)


@dataclass(frozen=True)
class HotplugCycle(Workload):
    """Plug, fill, unplug (what is in use migrates), plug again."""

    cycles: int = parameter(3, "How often.")
    dimms: int = parameter(4, "DIMMs plugged in each cycle.")
    dimm_bytes: int = parameter(GIB, "Size of each.", kind="size")
    virtio_mem_bytes: int = parameter(
        0, "What node 0's virtio-mem device grows to and shrinks from; 0: not used.", kind="size"
    )
    fill_bytes: int = parameter(32 * MIB, "In use while it is unplugged.", kind="size")
    touch_bytes: int = parameter(96 * MIB, "Touched by two threads before that.", kind="size")

    name = "hotplug-cycle"

    def __post_init__(self) -> None:
        if self.cycles < 1 or self.dimms < 0 or not (self.dimms or self.virtio_mem_bytes):
            raise UsageError(f"{self.name}: wants a cycle, and a DIMM or virtio-mem")

    def run(self, guest: Guest, notify: Notify) -> WorkloadResult:
        """Do it. A report for each cycle: the device steps' times, and a reading for each stage."""
        hotplug = Hotplug(guest)
        started_ns = time.monotonic_ns()
        reports = []
        for cycle in range(self.cycles):
            notify(f"hotplug cycle {cycle + 1} of {self.cycles}")
            reports.append({"cycle": cycle, **self._cycle(guest, hotplug)})
        elapsed_ns = time.monotonic_ns() - started_ns
        touched = self.cycles * (self.touch_bytes + self.fill_bytes)
        return WorkloadResult(self.name, touched, elapsed_ns, tuple(reports))

    def _cycle(self, guest: Guest, hotplug: Hotplug) -> dict[str, Any]:
        readings = [self._read("before", guest, hotplug)]
        plugged = [hotplug.plug_dimm(self.dimm_bytes) for _ in range(self.dimms)]
        steps = [dimm.step for dimm in plugged]
        if self.virtio_mem_bytes:
            steps.append(hotplug.resize("vmem0", self.virtio_mem_bytes))
        readings.append(self._read("plugged", guest, hotplug))
        Touch(bytes=self.touch_bytes, threads=2).run(guest, lambda _: None)
        with filled(guest, self.fill_bytes):
            readings.append(self._read("filled", guest, hotplug))
            steps += [hotplug.unplug_dimm(dimm) for dimm in plugged]
            if self.virtio_mem_bytes:
                steps.append(hotplug.resize("vmem0", 0))
            readings.append(self._read("unplugged", guest, hotplug))
        return {"took_ns": [[s.step, s.device, s.took_ns] for s in steps], "readings": readings}

    def _read(self, stage: str, guest: Guest, hotplug: Hotplug) -> dict[str, Any]:
        """What a stage left behind: pages of 4 KiB, units of 2 MiB; plugged_pending is what of
        backend_pending is in devices."""
        pending = sum(hotplug.pending(device) for device in hotplug.devices() if device.size)
        counters = read_counters(guest)
        units = ("units_added", "units_removed", "accept_units", "backend_pending")
        return {
            "stage": stage,
            "unaccepted_pages": counters.unaccepted_pages,
            **{name: counters.stat(name) for name in units},
            "plugged_pending": pending,
        }


@dataclass(frozen=True)
class PlugWhileAllocating(Workload):
    """Plug DIMMs while threads allocate: both accept at the same time."""

    bytes: int = parameter(512 * MIB, "Touched over and over.", kind="size")
    threads: int = parameter(8, "Threads that touch it.")
    dimms: int = parameter(4, "DIMMs plugged meanwhile.")
    dimm_bytes: int = parameter(512 * MIB, "Size of each.", kind="size")

    name = "hotplug-while-allocating"

    def run(self, guest: Guest, notify: Notify) -> WorkloadResult:
        notify(f"{self.threads} threads allocate while {self.dimms} DIMMs are plugged")
        hotplug = Hotplug(guest)
        touch = Touch(bytes=self.bytes, threads=self.threads)
        stop = "/run/cvm-stop"
        guest.run(f"rm -f {stop}")
        started_ns = time.monotonic_ns()
        words = " ".join(touch.command())
        command = guest.start(f"while [ ! -e {stop} ]; do {words} >/dev/null || exit 1; done")
        rounds, dimms = 0, []
        try:
            for _ in range(self.dimms):
                dimms.append(hotplug.plug_dimm(self.dimm_bytes))
                rounds += command.running
        finally:
            guest.run(f"touch {stop}")
            command.wait(deadline_s=60 + self.bytes / GIB * 60)
        report = {
            "plugged_while_allocating": rounds,
            "took_ns": [[dimm.step.step, dimm.id, dimm.step.took_ns] for dimm in dimms],
        }
        return WorkloadResult(self.name, self.bytes, time.monotonic_ns() - started_ns, (report,))
