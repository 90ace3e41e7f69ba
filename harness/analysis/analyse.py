# SPDX-License-Identifier: MIT
"""Everything a run directory says, computed from it alone: today or years later, the same.

Reads run.json, events.parquet, vmstat.parquet and workload.json (docs/run-directory.md).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.analysis.accepts import AcceptFigures, StageBounds, figures
from harness.analysis.evidence import Evidence, Scope, Trace, Witness
from harness.analysis.functions import FunctionCost, read_functions
from harness.analysis.invariants import judge
from harness.analysis.kexec import kexec_cycles
from harness.analysis.lkvs import lkvs_check
from harness.analysis.probes import PROBES_FILE
from harness.analysis.timeline import SampleFigures, sample_figures
from harness.analysis.workload import Operations, StallShare, operations, stall_shares
from harness.base.status import PreconditionError, Status, worst
from harness.base.units import PAGE_SIZE, UNIT_SIZE
from harness.record import events as event_file
from harness.record import platform as platform_file
from harness.record.check import Check
from harness.record.clocks import ClockPoint, ClockRelation, relation
from harness.record.counters import Counters, counters_from_record
from harness.record.events import Events
from harness.record.hist import KernelHistogram, read_hist
from harness.record.pending import PendingRun, parse_pending
from harness.record.platform_state import PlatformInfo, platform_readings
from harness.record.rundir import RunDir
from harness.record.samples import read_samples

WORKLOAD_FILE = "workload.json"
PENDING_FILE = "pending.txt"
_MAX_FILE = 256 << 20


@dataclass(frozen=True)
class WorkloadRecord:
    """One workload as workload.json has it."""

    name: str
    touched_bytes: int
    elapsed_ns: int
    parameters: Mapping[str, Any]
    reports: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True)
class SplatRecord:
    """One console splat on the guest's time axis."""

    kind: str
    line: str
    host_ns: int
    guest_ns: int | None
    """Guest CLOCK_MONOTONIC by the measured relation of the clocks; None where there is none."""


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
    platform: str
    """What made memory unaccepted, in words; "" where the record does not say."""
    witness: PlatformInfo | None
    """What QEMU says at the end, where it emulated the platform."""


def analyse(run_dir: Path) -> Analysis:
    """Analyse a run that has ended.

    Raises UsageError where `run_dir` is none, PreconditionError where its files cannot be believed
    or the run broke before it was read a second time.
    """
    record = RunDir.load(run_dir).record
    for needed in ("counters_before", "counters_after"):
        if needed not in record:
            raise PreconditionError(
                f"{run_dir} holds a run that was not finished: {record.get('cause', '')}",
                hint="nothing can be judged; see run.json and console.log there",
            )
    before, after = (
        counters_from_record(record[name]) for name in ("counters_before", "counters_after")
    )
    # A workload may have started other kernels (kexec): `before` is of the last one.
    first = counters_from_record(record.get("counters_first_kernel", record["counters_before"]))
    workloads = read_workloads(run_dir)
    ops = operations([report for load in workloads for report in load.reports])
    events = Events(run_dir / event_file.FILE) if (run_dir / event_file.FILE).exists() else None
    samples = read_samples(run_dir)
    clocks = _clocks(record)
    splats = _splats(record, clocks)
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
            pending=_pending(run_dir, PAGE_SIZE if "platform" in record else UNIT_SIZE),
            witness=_witness(run_dir, record),
            samples=samples,
            cycles=[cycle for load in workloads for cycle in kexec_cycles(load.reports)],
            console=_unexpected(splats, record),
        ),
        Scope.RUN,
    )
    for load in workloads:
        if load.name == "lkvs" and load.reports:
            cycles = kexec_cycles(load.reports)
            checks.append(lkvs_check(load.reports[0], first, after, load.elapsed_ns, cycles))
    if why := record.get("trace_refused"):
        checks.append(Check("accept events", Status.SKIP, str(why), "conservation"))
    status, cause = verdict(checks)
    return Analysis(
        run_id=str(record.get("id", "")),
        status=status,
        cause=cause,
        checks=tuple(checks),
        boot=_boot(record),
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
        platform=_text(record, "platform_words"),
        witness=platform_readings(record).get("after"),
    )


def _witness(run_dir: Path, record: Mapping[str, Any]) -> Witness | None:
    """What QEMU saw as the guest's platform; None where it emulated none."""
    readings = platform_readings(record)
    if not readings:
        return None
    stream = run_dir / platform_file.FILE
    return Witness(
        readings.get("before"),
        readings.get("after"),
        platform_file.PlatformEvents(stream) if stream.exists() else None,
        at_rest=record["platform"].get("at_rest") is True,
    )


def verdict(checks: Sequence[Check]) -> tuple[Status, str]:
    """The worst of `checks`, and the first check that is as bad as that for its cause."""
    status = worst(check.status for check in checks)
    if status is Status.PASS:
        return status, ""
    return status, next(
        (f"{c.name}: {c.detail}" for c in checks if c.status is status), "no checks"
    )


def read_workloads(run_dir: Path) -> tuple[WorkloadRecord, ...]:
    """workload.json; empty where no workload ran. Raises PreconditionError."""
    path = run_dir / WORKLOAD_FILE
    if not path.exists():
        return ()
    try:
        if path.stat().st_size > _MAX_FILE:
            raise ValueError("it is too large to believe")
        return tuple(
            WorkloadRecord(
                str(entry["name"]),
                int(entry["touched_bytes"]),
                int(entry["elapsed_ns"]),
                dict(entry["parameters"]),
                tuple(dict(report) for report in entry["reports"]),
            )
            for entry in json.loads(path.read_text())["workloads"]
        )
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise PreconditionError(f"{path} cannot be read as workloads: {error}") from error


def _bounds(
    record: Mapping[str, Any], ops: Operations | None, clocks: ClockRelation | None
) -> StageBounds:
    init_ns = _integer(record, "boot", "init", "monotonic_ns")
    if init_ns is None or init_ns < 0:
        raise PreconditionError("the run does not say when init began")
    if ops and ops.workers:
        start = min(worker.start_ns for worker in ops.workers)
        return StageBounds(init_ns, start, max(worker.stop_ns for worker in ops.workers))
    start_host = _integer(record, "workload_marks", "start_host_ns")
    end_host = _integer(record, "workload_marks", "end_host_ns")
    if clocks is None or start_host is None or end_host is None:
        return StageBounds(init_ns)
    return StageBounds(init_ns, clocks.guest_ns(start_host), clocks.guest_ns(end_host))


def _clocks(record: Mapping[str, Any]) -> ClockRelation | None:
    try:
        points = [ClockPoint(**point) for point in record.get("clock_points", [])]
    except TypeError as error:
        raise PreconditionError(f"run.json has no usable clock points: {error}") from error
    return relation(points) if points else None


def _splats(record: Mapping[str, Any], clocks: ClockRelation | None) -> tuple[SplatRecord, ...]:
    found = []
    for splat in record.get("splats", []):
        host_ns = int(splat["host_ns"])
        guest_ns = clocks.guest_ns(host_ns) if clocks else None
        found.append(SplatRecord(str(splat["kind"]), str(splat["line"]), host_ns, guest_ns))
    return tuple(found)


def _pending(run_dir: Path, grain: int) -> tuple[PendingRun, ...] | None:
    path = run_dir / PENDING_FILE
    return parse_pending(path.read_text("ascii", "replace"), grain) if path.exists() else None


def _unexpected(
    splats: Sequence[SplatRecord], record: Mapping[str, Any]
) -> tuple[tuple[str, str], ...]:
    """Kind and line of each splat that the workload did not ask for."""
    expected = set(record.get("expected_splats", []))
    return tuple((splat.kind, splat.line) for splat in splats if splat.kind not in expected)


def _boot(record: Mapping[str, Any]) -> BootFigures:
    stages = (record.get("boot") or {}).get("stages") or {}

    def since_spawn(stage: str) -> int | None:
        if stage not in stages or "spawn" not in stages or "restored" in stages:
            return None  # a restored guest has not booted
        return int(stages[stage]) - int(stages["spawn"])

    pages = _integer(record, "boot", "init", "nr_unaccepted_pages")
    return BootFigures(
        since_spawn("init"), since_spawn("first_command"), -1 if pages is None else pages
    )


def _integer(record: Mapping[str, Any], *path: str) -> int | None:
    value = _at(record, path)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _text(record: Mapping[str, Any], *path: str) -> str:
    value = _at(record, path)
    return value if isinstance(value, str) else ""


def _at(record: Any, path: Sequence[str]) -> Any:
    for name in path:
        record = record.get(name) if isinstance(record, Mapping) else None
    return record
