# SPDX-License-Identifier: MIT
"""kexec: kernels one after the other in one guest, each with what the one before has left."""

import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from harness.analysis.kexec import KexecCycle
from harness.analysis.reboot import RebootCycle
from harness.base.status import PreconditionError, UsageError
from harness.base.text import printable
from harness.base.units import MIB
from harness.collect.readings import read_counters
from harness.guest.guest import Guest
from harness.record.histogram import histogram_of
from harness.record.rundir import plain
from harness.workloads.base import Notify, Workload, WorkloadResult, parameter
from harness.workloads.programs import Drain

CALLS = {"load": "-c -l", "file": "-s -l"}
"""kexec_load(2) and kexec_file_load(2), as options of kexec(8)."""
_SUB_BUCKET_BITS = 6
_LOAD_S = 120.0
_BOOT_S = 120.0
_NO_DEVICES = (
    "for device in /sys/bus/virtio/devices/*; do echo ${device##*/} > $device/driver/unbind; done"
)
_KERNEL, _INITRD = "/tmp/cvm-kexec-kernel", "/tmp/cvm-kexec-initrd"


@dataclass(frozen=True)
class Kexec(Workload):
    """Kernels started by kexec, one after the other: the guest's own, over and over."""

    cycles: int = parameter(2, "Kernels to start.")
    call: str = parameter("load", "System call that loads them.", kind="choice", choices=[*CALLS])
    drain: bool = parameter(False, "Have everything accepted before each kexec.", kind="flag")

    name = "kexec"
    layers = ("kexec",)
    replaces_kernel = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.cycles < 1:
            raise UsageError(f"{self.name}: wants at least one cycle")

    def run(self, guest: Guest, notify: Notify) -> WorkloadResult:
        """Start the kernels. An operation is the time from one kernel's last word to the next one's
        first command over SSH, on the host's clock. Raises PreconditionError where the guest has no
        kexec, or brings its own kernel."""
        kernel, initrd = boot_files(guest)
        cycles = []
        for cycle in range(self.cycles):
            notify(f"kexec {cycle + 1} of {self.cycles}")
            cycles.append(self._cycle(guest, kernel, initrd, notify))
        return cycles_result(self.name, cycles)

    def _cycle(self, guest: Guest, kernel: Path, initrd: Path, notify: Notify) -> KexecCycle:
        before = read_counters(guest)
        if self.drain:
            if before.unaccepted_pages > 0:
                Drain(workers=2).run(guest, notify)
            drained = read_counters(guest).unaccepted_pages
        load(guest, kernel, initrd, CALLS[self.call])
        left = read_counters(guest)
        since_ns = time.monotonic_ns()
        # Nobody waits for its answer, which does not come.
        guest.start(["kexec", "-e"])
        guest.await_next_kernel(since_ns, _BOOT_S)
        took_ns = time.monotonic_ns() - since_ns
        after = read_counters(guest)
        return KexecCycle(
            took_ns=took_ns,
            route=str(before.emulation.get("route", "")),
            drained_to_pages=drained if self.drain else None,
            mem_total_kib=before.mem_total_kib,
            next_mem_total_kib=after.mem_total_kib,
            unaccepted_pages=before.unaccepted_pages,
            left_pages=left.unaccepted_pages,
            next_at_init_pages=guest.boot.init.nr_unaccepted_pages,
            next_unaccepted_pages=after.unaccepted_pages,
        )


def cycles_result(name: str, cycles: Sequence[KexecCycle | RebootCycle]) -> WorkloadResult:
    """What a workload has done that started kernels one after the other."""
    took = np.array([cycle.took_ns for cycle in cycles], np.int64)
    histogram = histogram_of(took, _SUB_BUCKET_BITS)
    pairs = np.column_stack([histogram.indexes, histogram.counts]).tolist()
    report: dict[str, Any] = {
        "workload": name,
        "cycles": plain(cycles),
        "operations": len(cycles),
        "min_ns": int(took.min()),
        "max_ns": int(took.max()),
        "total_ns": int(took.sum()),
        "histogram": {"sub_bucket_bits": _SUB_BUCKET_BITS, "counts": pairs},
        "workers": [],
    }
    return WorkloadResult(name, 0, int(took.sum()), (report,))


def boot_files(guest: Guest) -> tuple[Path, Path]:
    """The kernel and initrd that the guest was started from. Raises PreconditionError."""
    found = [guest.machine.value_of(option) for option in ("-kernel", "-initrd")]
    paths = [Path(text) for text in found if text]
    if len(paths) != 2 or not all(path.is_file() for path in paths):
        raise PreconditionError(
            f"kexec: the guest's kernel and initrd are not at hand: {found}",
            hint="a guest booted from --disk brings its own; give --kernel",
        )
    return paths[0], paths[1]


def crash(guest: Guest, cpu: int = 0) -> int:
    """Have a kernel that has loaded a crash kernel panic on `cpu`; host time before that.

    Its devices are taken away first. A panic stops no driver, so that QEMU would go on reading
    rings (virtio_serial_guest_ready() at each turn of its main loop) in pages that the kernel has
    made private on its way out: an access that the emulated platforms stop at.
    """
    now = time.monotonic_ns()
    steps = shlex.quote(f"sleep 1; {_NO_DEVICES}; echo c > /proc/sysrq-trigger")
    guest.run(f"setsid taskset -c {cpu} sh -c {steps} > /dev/null 2>&1 < /dev/null &")
    guest.log_out()
    return now


def load(
    guest: Guest, kernel: Path, initrd: Path, options: str, cmdline: str | None = None
) -> None:
    """Load the next kernel, by default with the command line of this one. `options` are those of
    kexec(8). Raises PreconditionError."""
    words = "--reuse-cmdline" if cmdline is None else shlex.quote(f"--command-line={cmdline}")
    guest.put(kernel, _KERNEL, deadline_s=_LOAD_S)
    guest.put(initrd, _INITRD, deadline_s=_LOAD_S)
    command = f"kexec {options} {_KERNEL} --initrd={_INITRD} {words} && rm {_KERNEL} {_INITRD}"
    done = guest.run(command, deadline_s=_LOAD_S, check=False, max_output=MIB)
    if done.exit_status:
        said = [printable(line) for line in (done.stdout + done.stderr).splitlines()[-5:]]
        raise PreconditionError(
            f"kexec could not load the next kernel, exit status {done.exit_status}", details=said
        )
