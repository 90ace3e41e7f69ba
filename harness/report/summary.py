# SPDX-License-Identifier: MIT
"""One run's figures as rows: what was run, on what, what it cost."""

from __future__ import annotations

from harness.base.units import PAGE_SIZE, format_ns, format_size
from harness.record.boot import BootRecord
from harness.report.terminal import latency_cell, throughput_cell
from harness.run.run import Outcome
from harness.run.session import Prepared
from harness.workloads.base import WorkloadResult

Rows = list[tuple[str, str]]


def prepared_rows(prepared: Prepared) -> Rows:
    """What the guest is."""
    spec, host = prepared.spec, prepared.host
    return [
        ("target", f"{spec.target.value}, route {spec.emulation.route.value}"),
        ("accelerator", f"{host.accel.value} ({host.accel_reason})"),
        ("kernel", f"{prepared.kernel.release}, {spec.accept.value} acceptance"),
        ("cost of acceptance", spec.cost_words),
    ]


def boot_rows(boot: BootRecord) -> Rows:
    """What boot left and took."""
    unaccepted = ("unaccepted at init", format_size(boot.init.nr_unaccepted_pages * PAGE_SIZE))
    if boot.restored:
        start = ("restored from a snapshot, running", format_ns(boot.since_spawn_ns("restored")))
    else:
        start = ("time to init", format_ns(boot.since_spawn_ns("init")))
    command = ("time to first SSH command", format_ns(boot.since_spawn_ns("first_command")))
    return [unaccepted, start, command]


def outcome_rows(outcome: Outcome, result: WorkloadResult) -> Rows:
    """What the workload did and what acceptance cost."""
    before, after, accepts = outcome.before, outcome.after, outcome.accepts
    accepted = (before.unaccepted_pages - after.unaccepted_pages) * PAGE_SIZE
    rows = [
        ("touched", f"{format_size(result.touched_bytes)} in {format_ns(result.elapsed_ns)}"),
        ("accepted meanwhile", format_size(accepted)),
    ]
    if accepts:
        rows += [
            ("accept calls since boot", f"{accepts.calls:,} for {accepts.units:,} units of 2 MiB"),
            ("accept latency p50 / p99 / max", latency_cell(accepts.accept)),
            ("wait for other CPUs p50 / p99 / max", latency_cell(accepts.wait)),
            ("GiB per second of accept time", throughput_cell(accepts)),
        ]
    return rows
