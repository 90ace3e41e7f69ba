# SPDX-License-Identifier: MIT
"""The acceptance cases of Intel's LKVS (BM/tdx-guest) by name, with the preconditions they lack.

A case sets the guest's shape and what runs in it; what it asserts is judged from the record, by
harness/analysis/lkvs.py.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from harness.base.spec import AcceptMode, GuestSpec
from harness.base.status import PreconditionError, UsageError
from harness.base.units import GIB
from harness.collect.readings import read_counters
from harness.guest.guest import Guest
from harness.workloads.base import Notify, Workload, WorkloadResult, parameter
from harness.workloads.kexec import Kexec
from harness.workloads.programs import Churn, Drain
from harness.workloads.stress_ng import stress_ng

_DRAIN = re.compile(r"T_(\d{1,3})C_(\d{1,4})G_(\d{1,3})W")
CASES: Mapping[str, str] = {
    "KCONFIG": "the kernel is configured for lazy acceptance",
    "FUNC": "stress-ng on all memory makes nr_unaccepted fall",
    "CAL": "vmstat and meminfo say the same, and not nothing",
    "NEG": "with accept_memory=eager nothing is unaccepted",
    "T_1C_8G_1W": "one worker accepts all there is; any T_<vCPUs>C_<GiB>G_<workers>W will do",
    "EBIZZY_MAP": "threads churn chunks that are mapped one by one",
    "EBIZZY_HEAP": "threads churn chunks of the heap",
    "STRESS_MEMRATE": "stress-ng --memrate ends without a failure",
    "KEXEC": "kernels started by kexec have all of the memory, and the table",
    "KEXEC_DRAIN": "the same with everything accepted before each kexec",
}
_STRESS_S = 600.0


@dataclass(frozen=True)
class Lkvs(Workload):
    """An acceptance case of LKVS: KCONFIG, FUNC, CAL, NEG, T_1C_8G_1W, EBIZZY_MAP, …"""

    case: str = parameter("FUNC", "Which case (docs/workloads.md).", kind="text")
    baseline_s: int = parameter(0, "T_ cases: fail above 1.15 times this; 0: only report.")

    name = "lkvs"

    def __post_init__(self) -> None:
        if self.case not in CASES and not _DRAIN.fullmatch(self.case):
            raise UsageError(f"lkvs: unknown case {self.case!r}", hint=f"one of {', '.join(CASES)}")

    @property
    def layers(self) -> tuple[str, ...]:
        """The programs that the case runs."""
        if self.replaces_kernel:
            return Kexec.layers
        return ("stress-ng",) if self.case in ("FUNC", "STRESS_MEMRATE") else ()

    @property
    def replaces_kernel(self) -> bool:
        """Whether the guest has another kernel afterwards."""
        return self.case in ("KEXEC", "KEXEC_DRAIN")

    def adapt(self, spec: GuestSpec) -> GuestSpec:
        """The guest that the case is about."""
        if self.case == "NEG":
            return dataclasses.replace(spec, accept=AcceptMode.EAGER)
        if drain := _DRAIN.fullmatch(self.case):
            return dataclasses.replace(spec, vcpus=int(drain[1]), memory=int(drain[2]) * GIB)
        return spec

    def run(self, guest: Guest, notify: Notify) -> WorkloadResult:
        """Run the case. The first report says which it was, and what was asked of the kernel."""
        facts: dict[str, Any] = {
            "workload": self.name,
            "case": self.case,
            "baseline_s": self.baseline_s,
            "config": _config(guest),
        }
        if self.replaces_kernel and read_counters(guest).unaccepted_pages <= 0:
            raise PreconditionError(f"lkvs {self.case}: nothing is unaccepted to begin with")
        load = self._load()
        if load is not None:
            result = load.run(guest, notify)
            reports = (facts, *result.reports)
            return dataclasses.replace(result, name=self.name, reports=reports)
        elapsed_ns = 0
        if self.case in ("FUNC", "STRESS_MEMRATE"):
            notify(f"stress-ng, as in {self.case}")
            report = stress_ng(guest, self._stress_arguments(guest), _STRESS_S)
            facts |= {"exit_status": report["exit_status"], "said": report["said"]}
            elapsed_ns = report["elapsed_host_ns"]
        return WorkloadResult(self.name, 0, elapsed_ns, (facts,))

    def _load(self) -> Workload | None:
        if drain := _DRAIN.fullmatch(self.case):
            return Drain(workers=int(drain[3]))
        if self.case in ("EBIZZY_MAP", "EBIZZY_HEAP"):
            return Churn(threads=4, map=self.case == "EBIZZY_MAP", chunk=4 << 20)
        if self.replaces_kernel:
            return Kexec(cycles=2, drain=self.case == "KEXEC_DRAIN")
        return None

    def _stress_arguments(self, guest: Guest) -> tuple[str, ...]:
        if self.case == "STRESS_MEMRATE":
            return ("--memrate", "2", "--memrate-bytes", "96M", "--timeout", "5")
        # LKVS asks for 100 %, which in a guest without swap is a matter for the OOM killer.
        return ("--vm", "1", "--vm-bytes", "80%", "--vm-populate", "--timeout", "3")


def _config(guest: Guest) -> str:
    """CONFIG_UNACCEPTED_MEMORY as the kernel tells it: y, n, or "unknown"."""
    result = guest.run("zcat /proc/config.gz", check=False, max_output=4 << 20)
    if result.exit_status:
        return "unknown"
    text = result.text
    if not text.startswith("#"):
        raise PreconditionError("the guest's /proc/config.gz is not a kernel configuration")
    return "y" if "\nCONFIG_UNACCEPTED_MEMORY=y\n" in text else "n"
