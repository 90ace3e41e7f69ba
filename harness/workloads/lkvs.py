# SPDX-License-Identifier: MIT
"""The acceptance cases of Intel's LKVS (BM/tdx-guest): the guest's shape, and what runs in it. What
a case asserts, and what it forgets to, is judged from the record by harness/analysis/kexec.py."""

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from harness.base.spec import AcceptMode, GuestSpec
from harness.base.status import PreconditionError, UsageError
from harness.base.units import GIB, MIB
from harness.collect.readings import read_counters
from harness.guest.guest import Guest
from harness.workloads.base import Notify, Workload, WorkloadResult, parameter
from harness.workloads.kexec import Kexec
from harness.workloads.programs import Churn, Drain
from harness.workloads.stress_ng import StressNg

_DRAIN = re.compile(r"T_(\d{1,3})C_(\d{1,4})G_(\d{1,3})W")
# LKVS asks for 100 %, which in a guest without swap is a matter for the OOM killer.
_FUNC = ("--vm", "1", "--vm-bytes", "80%", "--vm-populate", "--timeout", "3")
_MEMRATE = ("--memrate", "2", "--memrate-bytes", "96M", "--timeout", "5")

CASES: Mapping[str, Workload | None] = {
    "KCONFIG": None,
    "FUNC": StressNg(arguments=_FUNC),
    "CAL": None,
    "NEG": None,
    "T_1C_8G_1W": Drain(workers=1),
    "EBIZZY_MAP": Churn(threads=4, map=True, chunk=4 * MIB),
    "EBIZZY_HEAP": Churn(threads=4, map=False, chunk=4 * MIB),
    "STRESS_MEMRATE": StressNg(arguments=_MEMRATE),
    "KEXEC": Kexec(cycles=2),
    "KEXEC_DRAIN": Kexec(cycles=2, drain=True),
}
"""What each case runs in the guest; docs/workloads.md says what it asserts."""


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
    def load(self) -> Workload | None:
        if drain := _DRAIN.fullmatch(self.case):
            return Drain(workers=int(drain[3]))
        return CASES[self.case]

    @property
    def layers(self) -> tuple[str, ...]:
        return self.load.layers if self.load else ()

    @property
    def replaces_kernel(self) -> bool:
        return bool(self.load and self.load.replaces_kernel)

    def adapt(self, spec: GuestSpec) -> GuestSpec:
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
        if self.load is None:
            return WorkloadResult(self.name, 0, 0, (facts,))
        if isinstance(self.load, StressNg):
            notify(f"stress-ng, as in {self.case}")
            report = self.load.report(guest)
            facts |= {"exit_status": report["exit_status"], "said": report["said"]}
            return WorkloadResult(self.name, 0, report["elapsed_host_ns"], (facts,))
        result = self.load.run(guest, notify)
        return dataclasses.replace(result, name=self.name, reports=(facts, *result.reports))


def _config(guest: Guest) -> str:
    """CONFIG_UNACCEPTED_MEMORY as the kernel tells it: y, n, or "unknown"."""
    result = guest.run("zcat /proc/config.gz", check=False, max_output=4 << 20)
    if result.exit_status:
        return "unknown"
    text = result.text
    if not text.startswith("#"):
        raise PreconditionError("the guest's /proc/config.gz is not a kernel configuration")
    return "y" if "\nCONFIG_UNACCEPTED_MEMORY=y\n" in text else "n"
