# SPDX-License-Identifier: MIT
"""Everything a run directory says, computed from it alone: today or years later, the same."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from harness.analysis.accepts import AcceptFigures, StageBounds, figures
from harness.analysis.evidence import Evidence, Scope, Trace, Witness
from harness.analysis.functions import FunctionCost, read_functions
from harness.analysis.invariants import judge
from harness.analysis.kexec import kexec_cycles, lkvs_check
from harness.analysis.probes import PROBES_FILE
from harness.analysis.reboot import reboot_cycles
from harness.analysis.timeline import SampleFigures, sample_figures
from harness.analysis.workload import Operations, StallShare, operations, stall_shares
from harness.base.status import PreconditionError, Status, worst
from harness.base.units import PAGE_SIZE, UNIT_SIZE
from harness.record import events as event_file
from harness.record import platform as platform_file
from harness.record.boot import BootRecord
from harness.record.check import Check
from harness.record.clocks import ClockRelation, relation
from harness.record.counters import Counters
from harness.record.events import Events
from harness.record.histogram import KernelHistogram, read_hist
from harness.record.platform_state import PendingRun, PlatformInfo, parse_pending
from harness.record.run import PlatformRecord, RunRecord, SplatRecord, recorded, run_record
from harness.record.rundir import RunDir
from harness.record.samples import read_samples

WORKLOAD_FILE = "workload.json"
PENDING_FILE = "pending.txt"


class WorkloadRecord(msgspec.Struct, frozen=True):
    """One workload as workload.json has it."""

    name: str
    touched_bytes: int
    elapsed_ns: int
    parameters: Mapping[str, Any]
    reports: tuple[Mapping[str, Any], ...]


class _WorkloadFile(msgspec.Struct, frozen=True):
    workloads: tuple[WorkloadRecord, ...]


@dataclass(frozen=True)
class BootFigures:
    """What boot took and left. Host clock, since QEMU was spawned; None: not reached."""

    init_ns: int | None
    first_command_ns: int | None
    unaccepted_at_init_pages: int


@dataclass(frozen=True)
class Analysis:
    """The outcome of a run, and everything that decided it."""

    run_id: str
    status: Status
    cause: str
    checks: tuple[Check, ...]
    boot: BootFigures
    before: Counters
    after: Counters
    workloads: tuple[WorkloadRecord, ...]
    operations: Operations | None
    trace_source: str | None
    """"event" or "probes"; None: not traced."""
    lost_events: int
    accepts: AcceptFigures | None
    """Over the whole life of the guest, boot included; None where nothing traced it."""
    histograms: tuple[KernelHistogram, ...]
    """From the kernel's own histograms, in a run that recorded nothing else."""
    functions: tuple[FunctionCost, ...]
    """Instructions by function, dearest first; empty where they were not counted."""
    stalls: tuple[StallShare, ...]
    samples: SampleFigures | None
    clocks: ClockRelation | None
    splats: tuple[SplatRecord, ...]
    """`guest_ns` by the measured relation of the clocks; None where there is none."""
    platform: str
    """What made memory unaccepted, in words; "" where the record does not say."""
    witness: PlatformInfo | None
    """What QEMU says at the end, where it emulated the platform."""


def analyse(run_dir: Path) -> Analysis:
    """Analyse a run that has ended. Raises UsageError where `run_dir` is none, PreconditionError
    where its files cannot be believed or it broke before its second reading."""
    written = RunDir.load(run_dir).record
    if not {"counters_before", "counters_after"} <= written.keys():
        raise PreconditionError(
            f"{run_dir} holds a run that was not finished: {written.get('cause', '')}",
            hint="nothing can be judged; see run.json and console.log there",
        )
    record = run_record(written, str(run_dir / "run.json"))
    before, after = record.counters_before, record.counters_after
    if before is None or after is None:
        raise PreconditionError(f"{run_dir}/run.json has no counters")
    first = record.counters_first_kernel or before
    file = recorded(run_dir / WORKLOAD_FILE, _WorkloadFile)
    workloads = file.workloads if file else ()
    ops = operations([report for load in workloads for report in load.reports])
    events = Events(run_dir / event_file.FILE) if (run_dir / event_file.FILE).exists() else None
    samples = read_samples(run_dir)
    clocks = relation(record.clock_points) if record.clock_points else None
    splats = tuple(
        msgspec.structs.replace(s, guest_ns=clocks.guest_ns(s.host_ns) if clocks else None)
        for s in record.splats
    )
    accepts = figures(events, _bounds(record, ops, clocks)) if events else None
    histograms = read_hist(run_dir)
    probes = Events(run_dir / PROBES_FILE) if (run_dir / PROBES_FILE).exists() else None
    trace = None
    if events and accepts and events.facts.source == "event":
        trace = Trace(accepts.summary.units, events.rows, events.facts.lost)
    checks = judge(
        Evidence(
            before=before,
            after=after,
            first=first,
            record=record,
            loaded=bool(workloads),
            trace=trace,
            probed=probes or (None if trace else events),
            recorded=events if probes else None,
            events=events,
            histograms=histograms,
            pending=_pending(run_dir, PAGE_SIZE if record.platform.statistics else UNIT_SIZE),
            witness=_witness(run_dir, record.platform),
            samples=samples,
            cycles=[cycle for load in workloads for cycle in kexec_cycles(load.reports)],
            reboots=[cycle for load in workloads for cycle in reboot_cycles(load.reports)],
            console=[(s.kind, s.line) for s in splats if s.kind not in record.expected_splats],
        ),
        Scope.RUN,
    )
    for load in workloads:
        if load.name == "lkvs" and load.reports:
            cycles = kexec_cycles(load.reports)
            checks.append(lkvs_check(load.reports[0], first, after, load.elapsed_ns, cycles))
    if record.trace_refused:
        checks.append(Check("accept events", Status.SKIP, record.trace_refused, "conservation"))
    status, cause = verdict(checks)
    return Analysis(
        run_id=record.id,
        status=status,
        cause=cause,
        checks=tuple(checks),
        boot=_boot(record.boot),
        before=before,
        after=after,
        workloads=workloads,
        operations=ops,
        trace_source=events.facts.source if events else None,
        lost_events=events.facts.lost if events else 0,
        accepts=accepts,
        histograms=histograms,
        functions=read_functions(run_dir),
        stalls=stall_shares(ops, events) if ops and events else (),
        samples=sample_figures(samples) if samples else None,
        clocks=clocks,
        splats=splats,
        platform=record.platform_words,
        witness=record.platform.statistics.get("after"),
    )


def _witness(run_dir: Path, platform: PlatformRecord) -> Witness | None:
    """What QEMU saw as the guest's platform; None where it emulated none."""
    readings = platform.statistics
    if not readings:
        return None
    stream = run_dir / platform_file.FILE
    return Witness(
        readings.get("before"),
        readings.get("after"),
        platform_file.PlatformEvents(stream) if stream.exists() else None,
        platform.at_rest,
    )


def verdict(checks: Sequence[Check]) -> tuple[Status, str]:
    """The worst of `checks`, and the first check that is as bad as that for its cause."""
    status = worst(check.status for check in checks)
    if status is Status.PASS:
        return status, ""
    return status, next(
        (f"{c.name}: {c.detail}" for c in checks if c.status is status), "no checks"
    )


def _bounds(record: RunRecord, ops: Operations | None, clocks: ClockRelation | None) -> StageBounds:
    init_ns = record.boot.init.monotonic_ns
    if init_ns < 0:
        raise PreconditionError("the run does not say when init began")
    if ops and ops.workers:
        start = min(worker.start_ns for worker in ops.workers)
        return StageBounds(init_ns, start, max(worker.stop_ns for worker in ops.workers))
    marks = record.workload_marks
    if clocks is None or not {"start_host_ns", "end_host_ns"} <= marks.keys():
        return StageBounds(init_ns)
    ends = (clocks.guest_ns(marks[name]) for name in ("start_host_ns", "end_host_ns"))
    return StageBounds(init_ns, *ends)


def _pending(run_dir: Path, grain: int) -> tuple[PendingRun, ...] | None:
    path = run_dir / PENDING_FILE
    return parse_pending(path.read_text("ascii", "replace"), grain) if path.exists() else None


def _boot(boot: BootRecord) -> BootFigures:
    def since_spawn(stage: str) -> int | None:
        if boot.restored or not {stage, "spawn"} <= boot.stages.keys():
            return None  # a restored guest has not booted
        return boot.since_spawn_ns(stage)

    pages = boot.init.nr_unaccepted_pages
    return BootFigures(since_spawn("init"), since_spawn("first_command"), pages)
