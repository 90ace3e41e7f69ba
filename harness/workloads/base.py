# SPDX-License-Identifier: MIT
"""What a workload is and what comes back of it."""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from harness.base.spec import GuestSpec
from harness.base.status import PreconditionError, UsageError
from harness.base.units import MIB
from harness.guest.guest import Guest
from harness.record.console import Kind

MAX_REPORT = 16 << 20
"""Bytes of report a workload may print; more is not believed."""

_NS_PER_MIB_WORST = 12_000_000
"""What a MiB may take under TCG with a dear cost model: sets the deadline, not a figure."""

Notify = Callable[[str], None]
"""Called with a line about how far the workload has come."""


@dataclass(frozen=True)
class WorkloadResult:
    """What the workload believes it did."""

    name: str
    touched_bytes: int
    elapsed_ns: int
    """By the guest's CLOCK_MONOTONIC, where it is one of the programs in guest-images/."""
    reports: tuple[Mapping[str, Any], ...] = field(default=())
    """The guest programs' own JSON reports, one per program run."""
    cpu_ns: int | None = None
    """CPU time of all its workers (CLOCK_THREAD_CPUTIME_ID); None where nobody took it."""


def adapted(workload: Workload, spec: GuestSpec) -> GuestSpec:
    """`spec` as the workload needs it: some need nodes, or a mode of acceptance."""
    adapt = getattr(workload, "adapt", None)
    return adapt(spec) if adapt else spec


def replaces_kernel(workload: Workload) -> bool:
    """Whether another kernel runs in the guest when the workload is over (kexec)."""
    return bool(getattr(workload, "replaces_kernel", False))


def parameters_of(workload: Workload) -> dict[str, Any]:
    """What a workload was asked to do: the fields of its dataclass."""
    if not dataclasses.is_dataclass(workload) or isinstance(workload, type):
        return {}
    return {f.name: getattr(workload, f.name) for f in dataclasses.fields(workload)}


@dataclass(frozen=True)
class Parameter:
    """One parameter of a workload as people give it."""

    name: str
    kind: str
    """size, count, choice, flag, text or words (all that follows)."""
    help: str
    choices: tuple[str, ...] = ()
    share: float = 0.0
    """For sizes: the default as a share of the guest's memory; 0: the field's own default."""

    @property
    def option(self) -> str:
        """As written on the command line."""
        return "--" + self.name.replace("_", "-")


def parameter(
    default: Any, help: str, *, kind: str = "count", share: float = 0.0, choices: Sequence[str] = ()
) -> Any:
    """A field of a workload's dataclass that can be set from outside."""
    facts = {"kind": kind, "help": help, "share": share, "choices": tuple(choices)}
    return field(default=default, metadata=facts)


def parameters(cls: type[Workload]) -> tuple[Parameter, ...]:
    """What a workload can be given."""
    return tuple(
        Parameter(f.name, **f.metadata)
        for f in dataclasses.fields(cls)  # type: ignore[arg-type]
        if "kind" in f.metadata
    )


class Workload(Protocol):
    """A named allocation pattern. A frozen dataclass with `parameter` fields; its docstring's
    first line describes it."""

    @property
    def name(self) -> str:
        """As written on the command line."""

    @property
    def layers(self) -> tuple[str, ...]:
        """Image layers it needs beside the base."""

    @property
    def expected_splats(self) -> frozenset[Kind]:
        """Kinds of console splat it causes on purpose (an OOM kill); all others are FAIL."""

    def run(self, guest: Guest, notify: Notify) -> WorkloadResult:
        """Do it. Raises PreconditionError where its report cannot be read."""


def parse_report(output: bytes, workload: str) -> dict[str, Any]:
    """The JSON report on the last line a guest program printed. Guest output is untrusted."""
    lines = output.splitlines()
    try:
        report = json.loads(lines[-1]) if lines else None
    except ValueError:
        report = None
    if not isinstance(report, dict):
        tail = lines[-1][:200] if lines else b""
        raise PreconditionError(f"{workload} printed no report, its last line is {tail!r}")
    if "error" in report:
        raise PreconditionError(f"{workload} could not do its work: {str(report['error'])[:300]}")
    return report


def report_int(report: Mapping[str, Any], key: str, workload: str) -> int:
    """A non-negative integer of a report. Raises PreconditionError."""
    value = report.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise PreconditionError(f"{workload}'s report has no number {key!r}: {value!r:.80}")
    return value


def check_choice(workload: str, option: str, value: str, known: Sequence[str]) -> None:
    """Raise UsageError where `value` is not one of `known`."""
    if value not in known:
        raise UsageError(
            f"{workload}: unknown {option} {value!r}", hint=f"use one of {', '.join(known)}"
        )


def deadline_for(size: int) -> float:
    """Seconds for work on `size` bytes, with the dearest cost model under TCG."""
    return 60 + size / MIB * _NS_PER_MIB_WORST / 1e9


def program_result(
    guest: Guest, name: str, command: Sequence[str] | str, *, deadline_s: float
) -> WorkloadResult:
    """Run one guest program to its end and take its report.

    Raises PreconditionError where the report is missing or says that the work was not done.
    """
    # The line on stdin is the last packet that the guest gets before the program's end: without it,
    # what starting a command sends would interrupt what is measured, by 100,000 instructions each.
    program = command if isinstance(command, str) else shlex.join(command)
    gated = ["sh", "-c", f"read -r _ && {{ {program}\n}} < /dev/null"]
    running = guest.start(gated, input=b"\n", max_output=MAX_REPORT)
    result = running.wait(deadline_s, check=False)
    report = parse_report(result.stdout, name)
    return WorkloadResult(
        name,
        report_int(report, "bytes", name),
        report_int(report, "elapsed_ns", name),
        (report,),
        report_int(report, "cpu_ns", name),
    )
