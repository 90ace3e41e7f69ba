# SPDX-License-Identifier: MIT
"""Boot guests of many sizes, lazily and eagerly, each several times."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harness.analysis.bootstudy import BootPoint, StudyRow, boot_point, study
from harness.base.reader import FileType, read_json
from harness.base.spec import AcceptMode, GuestSpec
from harness.base.status import HarnessError, PreconditionError, Status, UsageError, worst
from harness.collect.plan import Collect, TraceMode
from harness.kernel.kernel import Kernel
from harness.record.rundir import plain, write_json
from harness.run.session import Session
from harness.studies.rounds import Order, rounds
from harness.targets.registry import target_for

FILE = "study.json"


class Failure(FileType, frozen=True):
    """A boot that gave no figures."""

    status: Status
    cause: str
    spec: Mapping[str, Any] = {}


class StudyRecord(FileType, frozen=True):
    """What study.json holds."""

    target: str
    cost: str
    points: tuple[BootPoint, ...]
    failures: tuple[Failure, ...]


@dataclass(frozen=True)
class BootPlan:
    memories: tuple[int, ...]
    vcpus: tuple[int, ...]
    repeat: int

    def __post_init__(self) -> None:
        if not self.memories or not self.vcpus or self.repeat < 1:
            raise UsageError("boot-study: wants sizes, vCPUs and at least one repetition")

    def specs(self, base: GuestSpec) -> list[GuestSpec]:
        """Every boot in its order: repetitions outside, so that a drift of the host spreads over
        all cells; the modes change places each time."""
        modes = (AcceptMode.LAZY, AcceptMode.EAGER)
        return [
            replace(base, memory=memory, vcpus=vcpus, accept=mode)
            for _, turn in rounds(modes, self.repeat, Order.ALTERNATING)
            for vcpus in self.vcpus
            for memory in self.memories
            for mode in turn
        ]


@dataclass(frozen=True)
class Study:
    """The outcome of a study, as booted or as recorded."""

    title: str
    """Which target, and which cost the boots paid."""
    status: Status
    """The worst of all boots: one that failed or could not be judged is not passed over."""
    rows: tuple[StudyRow, ...]
    failures: tuple[str, ...]
    """Status and cause of each boot that gave no figures, or whose checks did not hold."""


def traced(spec: GuestSpec) -> tuple[GuestSpec, Collect]:
    """`spec` and what to collect of it. Nothing that the figures do without: a trace from early
    boot on costs time, and the buffer of an eager boot would be too small for it.

    The emulated platform counts and times what it accepts; on hardware only the trace does.
    """
    if target_for(spec.target).on_hardware(spec) and spec.accept is AcceptMode.LAZY:
        return spec, Collect(hz=0)
    return replace(spec, trace_boot=False), Collect(hz=0, trace=TraceMode.OFF)


def run_study(
    session: Session,
    plan: BootPlan,
    base: GuestSpec,
    kernel: Kernel,
    out: Path,
    rerun: str,
    notify: Callable[[str, int, int], None],
) -> Study:
    """Do all boots; what was done is in `out` at any time."""
    out.mkdir(parents=True, exist_ok=True)
    specs = plan.specs(base)
    cost = target_for(base.target).cost_words(base)
    points: list[BootPoint] = []
    failures: list[Failure] = []
    for number, (spec, collect) in enumerate(map(traced, specs)):
        notify(
            f"{spec.accept.value}, {spec.memory >> 30} GiB, {spec.vcpus} vCPUs", number, len(specs)
        )
        prepared = session.prepare(spec, kernel)
        try:
            with session.boot(prepared, rerun=rerun, collect=collect) as run:
                run.conclude()
            points.append(boot_point(run.directory.path))
        except HarnessError as error:
            # Hours of boots are not thrown away for one: it is told, and counts for the verdict.
            notify(f"{error.status.value}: {error.cause}", number, len(specs))
            failures.append(Failure(error.status, error.cause, plain(spec)))
        record = StudyRecord(base.target.value, cost, tuple(points), tuple(failures))
        write_json(out / FILE, record)
    return load_study(out)


def load_study(out: Path) -> Study:
    """A recorded study, as it was judged when it was made. Raises PreconditionError."""
    try:
        record = read_json(out / FILE, StudyRecord)
    except UsageError as error:
        raise PreconditionError(f"{out} holds no boot study: {error.cause}") from error
    points = record.points
    told = [(failure.status, failure.cause) for failure in record.failures]
    told += [(p.status, f"run {p.run}") for p in points if p.status is not Status.PASS]
    statuses = [*(point.status for point in points), *(status for status, _ in told)]
    if not statuses:
        raise PreconditionError(f"{out} holds no boot study: not one boot is recorded in it")
    failures = tuple(f"{status.value}: {cause}" for status, cause in told)
    title = f"{record.target} target, {record.cost}"
    return Study(title, worst(statuses), study(points), failures)


def as_record(found: Study) -> dict[str, Any]:
    """For JSON."""
    rows = [{**plain(row), "eager_over_lazy": row.eager_over_lazy} for row in found.rows]
    return {**plain(found), "rows": rows}
