# SPDX-License-Identifier: MIT
"""Run directories for tests, made by the writers that real runs use."""

import datetime
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.analysis.analyse import analyse
from harness.base.emulation import COST_MODELS, Emulation
from harness.base.spec import Accel, AcceptMode, GuestSpec
from harness.base.status import Status
from harness.base.units import GIB, MAX_ORDER_PAGES, UNIT_SIZE
from harness.record.boot import BootRecord, InitMessage, ReadyMessage
from harness.record.check import Check
from harness.record.console import Splat
from harness.record.counters import Counters
from harness.record.events import EventsWriter, TraceFacts
from harness.record.histogram import histogram_of
from harness.record.rundir import RunDir, write_json
from harness.record.samples import Samples, write_samples
from harness.record.trace import AcceptSummary, latency
from harness.workloads.base import WorkloadResult
from tests.support.readings import reading

Array = npt.NDArray[Any]
START = datetime.datetime(2026, 3, 1, 2, 0, tzinfo=datetime.UTC)


def counters(unaccepted_pages: int, **emulation: int | str) -> dict[str, Any]:
    """A reading as run.json holds it, as far as metrics look."""
    return {"unaccepted_pages": unaccepted_pages, "emulation": emulation}


def make_run(
    root: Path,
    *,
    status: Status = Status.PASS,
    cause: str = "",
    day: float = 0,
    kernel: str = "6.12.117-cvm-0a1b2c3d",
    accept: AcceptMode = AcceptMode.LAZY,
    workload: str = "touch",
    first_command_ns: int = 2_300_000_000,
    accept_ns: float = 1_310_000,
    checks: tuple[Check, ...] | None = None,
    finished: bool = True,
    **fields: object,
) -> RunDir:
    """A whole run: what `Session.boot` and `Run` write, with the figures given."""
    run = RunDir.create(root, START + datetime.timedelta(days=day))
    spec = GuestSpec(
        memory=4 * GIB,
        accept=accept,
        accel=Accel.TCG,
        emulation=Emulation(cost=COST_MODELS["tdx"]),
    )
    run.update(
        spec=spec,
        kernel={
            "version": kernel.split("-")[0],
            "release": kernel,
            "digest": "0a1b2c3d" * 8,
            "provenance": {"source": "linux-source-6.12", "package_version": "6.12.117-1"},
        },
        host={"kernel": "6.1.0", "cpu": "a processor", "cpus": 2, "memory_bytes": 24 * GIB},
        qemu={"binary": "/usr/bin/qemu-system-x86_64", "version": "7.2.22"},
        accel={"name": "tcg", "reason": "KVM does not work here"},
        cost_model=spec.emulation.cost.describe(),
        command_line="qemu-system-x86_64 -m 4G",
        rerun="cvm-harness run touch --memory=4096M",
        boot=BootRecord(
            stages={
                "spawn": 10**9,
                "qmp_ready": 10**9 + 30_000_000,
                "kernel_start": 10**9 + 400_000_000,
                "init": 10**9 + first_command_ns * 3 // 4,
                "ready": 10**9 + first_command_ns * 7 // 8,
                "ssh_banner": 10**9 + first_command_ns * 9 // 10,
                "first_command": 10**9 + first_command_ns,
            },
            init=InitMessage(900 * 1024, 1_200_000_000),
            ready=ReadyMessage(cmdline="console=ttyS0"),
        ),
        counters_before=counters(900 * 1024, units_before_init=120),
        **fields,
    )
    if not finished:
        return run
    (run.path / "console.log").write_bytes(b"[    0.000000] Linux version 6.12.117\r\n" * 40)
    write_json(
        run.path / "workload.json",
        WorkloadResult(workload, GIB, 2_000_000_000, ({"workload": workload, "bytes": GIB},)),
    )
    found = checks or (Check("counters agree (after the workload)", Status.PASS, "pages: 1024"),)
    run.update(
        counters_after=counters(
            300 * 1024, units_before_init=120, table_pending=600, accept_ns=int(accept_ns * 300)
        ),
        checks=found,
        accepts=AcceptSummary(
            calls=300,
            events=310,
            units=600,
            bytes_accepted=600 * UNIT_SIZE,
            accept=latency([accept_ns] * 299 + [accept_ns * 3]),
            wait=latency([0.0] * 300),
            gib_per_s=1.5,
        ),
    )
    run.finish(status, cause)
    return run


def make_measured_run(
    root: Path,
    calls: int = 2000,
    *,
    slower: float = 1.0,
    seed: int = 1,
    console: bytes = b"[    0.000000] Linux version 6.12.117\r\n" * 40,
    splats: Sequence[Splat] = (),
    **fields: Any,
) -> RunDir:
    """A run with events, samples and a workload, whose figures are consistent with each other.

    Calls of one unit on four CPUs, log-normal around 1.31 ms times `slower`, then analysed and
    judged as `Run.conclude` does.
    """
    run = make_run(root, finished=False, **fields)
    random = np.random.default_rng(seed)
    accept_ns = (1_310_000 * slower * random.lognormal(0, 0.25, calls)).astype(np.int64)
    wait_ns = np.where(random.random(calls) < 0.1, random.exponential(2e6, calls), 0).astype(int)
    begin_ns, end_ns = 500_000_000, 500_000_000 + int(accept_ns.sum()) // 4
    time_ns = np.sort(random.integers(begin_ns, end_ns, calls))
    cpu = np.arange(calls) % 4
    with EventsWriter(run.path / "events.parquet") as writer:
        for number in range(4):
            mine = cpu == number
            count = int(mine.sum())
            start = np.flatnonzero(mine).astype(np.uint64) * np.uint64(UNIT_SIZE)
            writer.add(
                {
                    "time_ns": time_ns[mine],
                    "pid": np.full(count, 100 + number),
                    "comm": ["cvm"] * count,
                    "first": np.ones(count, bool),
                    "start_phys": start,
                    "end_phys": start + np.uint64(UNIT_SIZE),
                    "units": np.ones(count, np.int32),
                    "duration_ns": accept_ns[mine],
                    "wait_ns": wait_ns[mine],
                    "irqs_off": np.ones(count, bool),
                    "caller": ["__accept_page+0x7a/0xc0"] * count,
                },
                number,
            )
        writer.finish(TraceFacts("event", dict.fromkeys(range(4), 0)))
    blocks = calls // 2
    ticks = np.linspace(begin_ns, end_ns, min(max(calls // 10, 2), 60_000)).astype(np.int64)
    left = (blocks - np.searchsorted(time_ns, ticks, side="right") // 2) * MAX_ORDER_PAGES
    constant = np.ones_like(ticks)
    samples = np.column_stack([ticks, 900 * constant, 0 * constant, constant, left])
    names = ("monotonic_ns", "read_ns", "missed", "full", "vmstat.nr_unaccepted")
    write_samples(run.path, Samples(names, samples, 0, True, cpu_ns=4_000_000))
    ended_ns = end_ns + 1_000_000
    report = _worker_report(100, begin_ns, ended_ns, accept_ns[cpu == 0], time_ns[cpu == 0])
    load = {"name": "touch", "touched_bytes": calls * UNIT_SIZE, "elapsed_ns": ended_ns - begin_ns}
    whole = load | {"workloads": [load | {"parameters": {}, "reports": [report]}]}
    write_json(run.path / "workload.json", whole)
    (run.path / "console.log").write_bytes(console)
    run.update(
        splats=splats,
        expected_splats=[],
        counters_before=_reading(blocks, accepted=0, pending=calls),
        counters_after=_reading(0, accepted=calls, pending=0),
        clock_points=[
            {"host_ns": 2 * 10**9, "guest_ns": 200_000_000, "error_ns": 20_000},
            {"host_ns": 10**10, "guest_ns": 8_200_000_000, "error_ns": 30_000},
        ],
        trace={"source": "event", "lost_events": {}, "lost_unknown": False},
    )
    found = analyse(run.path)
    run.update(checks=found.checks, accepts=found.accepts.summary if found.accepts else None)
    run.finish(found.status, found.cause)
    return run


def _reading(blocks: int, *, accepted: int, pending: int) -> Counters:
    return reading(
        blocks * MAX_ORDER_PAGES,
        mem_total_kib=4 << 20,
        emulation={
            "units_marked": accepted + pending,
            "units_added": 0,
            "units_removed": 0,
            "units_before_init": 0,
            "accept_units": accepted,
            "accept_ns": accepted * 1_310_000,
            "untraced_units": 0,
            "table_pending": pending,
            "backend_pending": pending,
            "double_accepts": 0,
            "illegal_accesses": 0,
            "divergent": 0,
        },
    )


def _worker_report(
    tid: int, begin_ns: int, end_ns: int, took_ns: Array, ended_ns: Array
) -> dict[str, Any]:
    """One worker whose operations are its accept calls and half as much again."""
    took = took_ns * 3 // 2
    slowest = np.argsort(took)[-200:]
    histogram = histogram_of(took, 6)
    return {
        "workload": "touch",
        "operations": len(took),
        "min_ns": int(took.min()),
        "max_ns": int(took.max()),
        "total_ns": int(took.sum()),
        "workers": [
            {
                "tid": tid,
                "operations": len(took),
                "start_monotonic_ns": begin_ns,
                "stop_monotonic_ns": end_ns,
                "total_ns": int(took.sum()),
                "slowest": [[int(ended_ns[n] - took[n]), int(took[n])] for n in slowest],
            }
        ],
        "histogram": {
            "sub_bucket_bits": 6,
            "counts": [
                [int(i), int(c)] for i, c in zip(histogram.indexes, histogram.counts, strict=True)
            ],
        },
    }
