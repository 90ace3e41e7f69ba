# SPDX-License-Identifier: MIT
"""Reboots: the same guest from its firmware on, its memory as at power-on."""

import time
from dataclasses import dataclass

from harness.analysis.reboot import RebootCycle
from harness.base.status import UsageError
from harness.base.units import MIB
from harness.collect.readings import read_counters
from harness.guest.guest import Guest
from harness.workloads.base import Notify, Workload, WorkloadResult, parameter
from harness.workloads.kexec import cycles_result
from harness.workloads.touch import Touch

_BOOT_S = 180.0


@dataclass(frozen=True)
class Reboot(Workload):
    """The guest reboots, over and over, and has unaccepted memory each time."""

    cycles: int = parameter(1, "Reboots.")
    touch: int = parameter(64 * MIB, "Memory touched before each.", kind="size")

    name = "reboot"
    replaces_kernel = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.cycles < 1:
            raise UsageError(f"{self.name}: wants at least one cycle")

    def run(self, guest: Guest, notify: Notify) -> WorkloadResult:
        """Reboot. An operation is the time from the order to the first command over SSH
        afterwards, on the host's clock."""
        # Guests are started with -no-reboot: else one that resets itself would look alive.
        guest.qmp.execute("set-action", {"reboot": "reset"})
        cycles = []
        for cycle in range(self.cycles):
            notify(f"reboot {cycle + 1} of {self.cycles}")
            cycles.append(self._cycle(guest, notify))
        guest.qmp.execute("set-action", {"reboot": "shutdown"})
        return cycles_result(self.name, cycles)

    def _cycle(self, guest: Guest, notify: Notify) -> RebootCycle:
        before = read_counters(guest)
        if self.touch:
            Touch(bytes=self.touch).run(guest, notify)
        since_ns = time.monotonic_ns()
        guest.init.tell("reboot")
        guest.await_next_kernel(since_ns, _BOOT_S)
        took_ns = time.monotonic_ns() - since_ns
        after = read_counters(guest)
        return RebootCycle(
            took_ns=took_ns,
            mem_total_kib=before.mem_total_kib,
            next_mem_total_kib=after.mem_total_kib,
            unaccepted_pages=before.unaccepted_pages,
            next_at_init_pages=guest.boot.init.nr_unaccepted_pages,
        )
