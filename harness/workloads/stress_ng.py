# SPDX-License-Identifier: MIT
"""stress-ng with any arguments."""

import shlex
from dataclasses import dataclass
from typing import Any

from harness.base.status import PreconditionError, UsageError
from harness.base.text import printable
from harness.guest.guest import Guest
from harness.workloads.base import Notify, Workload, WorkloadResult, parameter

_TAIL = 20
_MAX_OUTPUT = 1 << 20


@dataclass(frozen=True)
class StressNg(Workload):
    """stress-ng: `run stress-ng [OPTIONS] -- --vm 2 --vm-bytes 80% --timeout 10`."""

    arguments: tuple[str, ...] = parameter((), "stress-ng's own arguments.", kind="words")
    deadline: int = parameter(600, "Seconds after which it is given up.")

    name = "stress-ng"
    layers = ("stress-ng",)

    def __post_init__(self) -> None:
        if not self.arguments:
            raise UsageError("stress-ng: wants arguments", hint="after --, e.g. -- --vm 2 -t 10")

    def run(self, guest: Guest, notify: Notify) -> WorkloadResult:
        """Run it. Raises PreconditionError if it says that it failed."""
        notify(f"stress-ng {shlex.join(self.arguments)}")
        report = self.report(guest)
        if report["exit_status"] != 0:
            raise PreconditionError(
                f"stress-ng ended with exit status {report['exit_status']}", details=report["said"]
            )
        return WorkloadResult(self.name, 0, report["elapsed_host_ns"], (report,))

    def report(self, guest: Guest) -> dict[str, Any]:
        """Run it to its end, however it ends; exit status and last lines as a report."""
        command = ["stress-ng", *self.arguments]
        result = guest.run(command, deadline_s=self.deadline, check=False, max_output=_MAX_OUTPUT)
        if result.exit_status == 127:
            raise PreconditionError("stress-ng is not in the guest's image", hint="add its layer")
        lines = (result.stdout + result.stderr).splitlines()[-_TAIL:]
        return {
            "workload": self.name,
            "arguments": list(self.arguments),
            "exit_status": result.exit_status,
            "elapsed_host_ns": result.elapsed_ns,
            "said": [printable(line) for line in lines],
        }
