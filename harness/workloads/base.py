# SPDX-License-Identifier: MIT
"""What a workload is and what comes back of it."""

import abc
import dataclasses
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

import msgspec

from harness.base.spec import GuestSpec
from harness.base.status import PreconditionError, UsageError
from harness.base.units import MIB
from harness.guest.guest import Guest
from harness.record.console import Kind

_MAX_REPORT = 16 << 20
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


_Count = Annotated[int, msgspec.Meta(ge=0)]


class _Done(msgspec.Struct):
    """What every program's report says (docs/guest-image.md)."""

    bytes: _Count
    elapsed_ns: _Count
    cpu_ns: _Count


@dataclass(frozen=True)
class Parameter:
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


@dataclass(frozen=True)
class Workload(abc.ABC):
    """A named allocation pattern. Its fields are `parameter`s; its docstring's first line
    describes it."""

    name: ClassVar[str]
    """As written on the command line."""
    expected_splats: ClassVar[frozenset[Kind]] = frozenset()
    """Kinds of console splat it causes on purpose (an OOM kill); all others are FAIL."""

    def __post_init__(self) -> None:
        for known in self.parameters():
            value = getattr(self, known.name)
            if known.choices and value not in known.choices:
                raise UsageError(
                    f"{self.name}: unknown {known.name} {value!r}",
                    hint=f"use one of {', '.join(known.choices)}",
                )

    @classmethod
    def parameters(cls) -> tuple[Parameter, ...]:
        return tuple(Parameter(f.name, **f.metadata) for f in dataclasses.fields(cls))

    @property
    def layers(self) -> tuple[str, ...]:
        """Image layers it needs beside the base."""
        return ()

    @property
    def replaces_kernel(self) -> bool:
        """Whether another kernel runs in the guest when it is over (kexec)."""
        return False

    def adapt(self, spec: GuestSpec) -> GuestSpec:
        """`spec` as it needs it, layers aside: some need nodes, or a mode of acceptance."""
        return spec

    def adapted(self, spec: GuestSpec) -> GuestSpec:
        """`spec` as it needs it, with the layers of its image."""
        layers = tuple(dict.fromkeys((*spec.layers, *self.layers)))
        return dataclasses.replace(self.adapt(spec), layers=layers)

    @abc.abstractmethod
    def run(self, guest: Guest, notify: Notify) -> WorkloadResult:
        """Do it. Raises PreconditionError where its report cannot be read."""


@dataclass(frozen=True)
class Program(Workload):
    """A workload that is one guest program, whose options are the parameters."""

    program: ClassVar[str] = ""
    """The subcommand of `cvm`, where it is not the workload's name."""
    of_harness: ClassVar[frozenset[str]] = frozenset()
    """Parameters that are no options of the program."""

    def command(self, *more: str) -> list[str]:
        words = ["cvm", self.program or self.name]
        for known in self.parameters():
            value = getattr(self, known.name)
            if known.name not in self.of_harness and value is not None and value is not False:
                words += [known.option] if value is True else [known.option, str(value)]
        return [*words, *more]

    def run_program(self, guest: Guest, deadline_s: float, *more: str) -> WorkloadResult:
        """Run it to its end, with `more` options. Raises as `program_result`."""
        return program_result(guest, self.name, self.command(*more), deadline_s=deadline_s)


def _report(output: bytes, workload: str) -> dict[str, Any]:
    """The JSON report on the last line a guest program printed. Guest output is untrusted."""
    last = b"".join(output.splitlines()[-1:])
    try:
        report = msgspec.json.decode(last, type=dict[str, Any])
    except (msgspec.DecodeError, ValueError):
        raise PreconditionError(
            f"{workload} printed no report, its last line is {last[:200]!r}"
        ) from None
    if "error" in report:
        raise PreconditionError(f"{workload} could not do its work: {str(report['error'])[:300]}")
    return report


def deadline_for(size: int) -> float:
    """Seconds for work on `size` bytes, with the dearest cost model under TCG."""
    return 60 + size / MIB * _NS_PER_MIB_WORST / 1e9


def program_result(
    guest: Guest, name: str, command: Sequence[str] | str, *, deadline_s: float
) -> WorkloadResult:
    """Run one guest program to its end and take its report. Raises PreconditionError where the
    report is missing or says that the work was not done."""
    # The line on stdin is the last packet that the guest gets before the program's end: without it,
    # what starting a command sends would interrupt what is measured, by 100,000 instructions each.
    program = command if isinstance(command, str) else shlex.join(command)
    gated = ["sh", "-c", f"read -r _ && {{ {program}\n}} < /dev/null"]
    running = guest.start(gated, input=b"\n", max_output=_MAX_REPORT)
    result = running.wait(deadline_s, check=False)
    report = _report(result.stdout, name)
    try:
        done = msgspec.convert(report, _Done)
    except msgspec.ValidationError as error:
        raise PreconditionError(f"{name}'s report makes no sense: {error}") from None
    return WorkloadResult(name, done.bytes, done.elapsed_ns, (report,), done.cpu_ns)
