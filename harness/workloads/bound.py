# SPDX-License-Identifier: MIT
"""Workloads within bounds: of a memory cgroup, of a NUMA node, of all memory there is."""

import dataclasses
import re
import shlex
from dataclasses import dataclass

from harness.base.spec import GuestSpec
from harness.base.status import PreconditionError, UsageError
from harness.base.units import MIB, format_size
from harness.guest.guest import Guest
from harness.workloads.base import (
    Notify,
    Program,
    Workload,
    WorkloadResult,
    deadline_for,
    parameter,
    program_result,
)
from harness.workloads.programs import Fill, zero_device

_CGROUP = "/run/cvm-cgroup"
_LEAST_LIMIT = 32 * MIB


@dataclass(frozen=True)
class MemcgLimited(Workload):
    """Read far more than a memory cgroup's limit into the page cache, within that cgroup."""

    limit: int = parameter(0, "memory.max of the cgroup.", kind="size", share=0.125)
    bytes: int = parameter(0, "How much to read.", kind="size", share=0.5)

    name = "memcg-limited"

    def __post_init__(self) -> None:
        if self.limit < _LEAST_LIMIT:
            raise UsageError(f"memcg-limited: a limit below {format_size(_LEAST_LIMIT)} kills it")
        if self.bytes <= self.limit:
            raise UsageError("memcg-limited: wants more bytes than the limit")

    def run(self, guest: Guest, notify: Notify) -> WorkloadResult:
        """Read within the limit; the second report is the cgroup's own account."""
        notify(f"reading {format_size(self.bytes)} within {format_size(self.limit)}")
        guest.run(
            f"mkdir -p {_CGROUP} && (mountpoint -q {_CGROUP} || mount -t cgroup2 none {_CGROUP}) "
            f"&& echo +memory > {_CGROUP}/cgroup.subtree_control && mkdir -p {_CGROUP}/load && "
            f"echo {self.limit} > {_CGROUP}/load/memory.max"
        )
        with zero_device(guest, self.bytes) as device:
            fill = Fill(bytes=self.bytes, kind="page-cache")
            program = shlex.join(fill.command("--path", device))
            command = f"echo $$ > {_CGROUP}/load/cgroup.procs && exec {program}"
            result = program_result(guest, self.name, command, deadline_s=deadline_for(self.bytes))
            account = guest.run(f"cd {_CGROUP}/load && cat memory.peak memory.events").text
        return dataclasses.replace(result, reports=(*result.reports, self._account(account)))

    def _account(self, text: str) -> dict[str, object]:
        peak, _, events = text.partition("\n")
        counts = {m[1]: int(m[2]) for m in re.finditer(r"^(\w{1,40}) (\d{1,18})$", events, re.M)}
        if not peak.isdecimal() or "max" not in counts:
            raise PreconditionError(f"the cgroup's account makes no sense: {text[:100]!r}")
        if not counts["max"]:
            raise PreconditionError("the cgroup's limit was never reached: nothing was limited")
        return {"workload": self.name, "limit_bytes": self.limit, "peak_bytes": int(peak)} | counts


@dataclass(frozen=True)
class NumaBound(Program):
    """One process for each NUMA node, each touching memory of its own node only."""

    bytes: int = parameter(0, "How much to touch, over all nodes.", kind="size", share=0.4)

    name = "numa-bound"
    program = "touch"

    def adapt(self, spec: GuestSpec) -> GuestSpec:
        if spec.numa_nodes > 1:
            return spec
        return dataclasses.replace(spec, numa_nodes=2, vcpus=max(spec.vcpus, 2))

    def run(self, guest: Guest, notify: Notify) -> WorkloadResult:
        """Touch. Raises PreconditionError where the guest has a single node."""
        text = guest.run("ls -d /sys/devices/system/node/node[0-9]* | wc -l", check=False).text
        nodes = int(text) if text.strip().isdecimal() else 0
        if nodes < 2:
            raise PreconditionError(
                f"numa-bound: the guest has {nodes} NUMA nodes", hint="use --numa-nodes=2 or more"
            )
        notify(f"touching {format_size(self.bytes)} on {nodes} nodes")
        each = ("--processes", str(nodes), "--bind")
        return self.run_program(guest, deadline_for(self.bytes), *each)


@dataclass(frozen=True)
class NearOom(Program):
    """Touch memory to within a few MiB of everything, without an OOM kill."""

    margin: int = parameter(8 * MIB, "MemAvailable to leave.", kind="size")
    step: int = parameter(MIB, "Bytes between two looks at it.", kind="size")

    name = "near-oom"

    def run(self, guest: Guest, notify: Notify) -> WorkloadResult:
        notify(f"touching all but {format_size(self.margin)}")
        return self.run_program(guest, 1200)
