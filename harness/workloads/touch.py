# SPDX-License-Identifier: MIT
"""First-touch anonymous memory: all at once, in steps, on any number of threads or processes."""

from dataclasses import dataclass

from harness.base.status import UsageError
from harness.base.units import MIB, format_size
from harness.guest.guest import Guest
from harness.workloads.base import Notify, Program, WorkloadResult, deadline_for, parameter

PAGES = ("4k", "thp", "hugetlb")


@dataclass(frozen=True)
class Touch(Program):
    """First-touch anonymous memory on one thread or several."""

    bytes: int = parameter(0, "How much to touch.", kind="size", share=0.5)
    step: int | None = parameter(None, "Stop after each so many bytes of a worker.", kind="size")
    threads: int = parameter(1, "Threads of each process; all start at a barrier.")
    page: str = parameter("4k", "Size of the pages.", kind="choice", choices=PAGES)
    pattern: str = parameter(
        "sequential",
        "Order of the pages.",
        kind="choice",
        choices=("sequential", "random", "strided"),
    )
    stride: int = parameter(4 * MIB, "Distance of strided touches.", kind="size")
    processes: int = parameter(1, "Processes.")
    pin: bool = parameter(False, "Worker i stays on the i-th CPU.", kind="flag")
    pause_ms: int = parameter(0, "Pause between steps.")
    verify: bool = parameter(False, "Read everything back at the end.", kind="flag")

    name = "touch"
    program = "touch"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.bytes < MIB or self.threads < 1 or self.processes < 1:
            raise UsageError(f"{self.name}: wants at least 1 MiB and one thread")

    def run(self, guest: Guest, notify: Notify) -> WorkloadResult:
        workers = self.threads * self.processes
        notify(f"touching {format_size(self.bytes)} on {workers} threads")
        if self.page == "hugetlb":
            _fill_hugetlb_pool(guest, self.bytes)
        pauses = self.bytes // self.step * self.pause_ms / 1000 if self.step else 0
        return self.run_program(guest, deadline_for(self.bytes) + pauses)


def _fill_hugetlb_pool(guest: Guest, size: int) -> None:
    """Enough huge pages of the default size for `size` bytes; the program says if there are not."""
    script = (
        "kib=$(awk '/^Hugepagesize/ {print $2}' /proc/meminfo) && "
        f"echo $(( {size} / 1024 / kib + 1 )) > /proc/sys/vm/nr_hugepages"
    )
    guest.run(script, deadline_s=deadline_for(size))


@dataclass(frozen=True)
class ParallelTouch(Touch):
    """Threads or processes that start on a barrier and touch memory at once."""

    threads: int = parameter(4, "Threads of each process; all start at a barrier.")

    name = "parallel-touch"


@dataclass(frozen=True)
class Steps(Touch):
    """Grow, pause, grow: memory touched in steps with pauses between."""

    step: int | None = parameter(None, "Bytes of one step.", kind="size", share=0.1)
    pause_ms: int = parameter(100, "Pause between steps.")

    name = "steps"
