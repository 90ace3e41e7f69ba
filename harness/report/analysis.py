# SPDX-License-Identifier: MIT
"""A run on one screen: verdict, boot, acceptance, workload, collectors, checks."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType

from harness.analysis.accepts import AcceptFigures
from harness.analysis.analyse import Analysis
from harness.analysis.functions import FunctionCost
from harness.analysis.timeline import SampleFigures
from harness.analysis.workload import StallShare
from harness.base.text import inert
from harness.base.units import GIB, PAGE_SIZE, UNIT_SIZE, format_ns, format_size
from harness.record.boot import BootRecord
from harness.record.histogram import KernelHistogram
from harness.record.platform_state import PlatformInfo
from harness.record.trace import Latency
from harness.report import terminal

if TYPE_CHECKING:
    from harness.run.prepared import Prepared

Rows = list[tuple[str, str]]
_MAX_CPUS = 8
_MAX_FUNCTIONS = 15


def screen(found: Analysis, *, verbose: bool) -> RenderableType:
    """The whole of it. The figures of acceptance are over the guest's life, boot included."""
    parts: list[RenderableType] = [terminal.status_text(found.status).append(f" {found.cause}")]
    parts.append(terminal.figures(_guest_rows(found) + _workload_rows(found)))
    if found.accepts:
        parts.append(_latencies(found))
        parts.append(_shares(found.accepts))
    if found.histograms:
        parts.append(terminal.figures([_hist_row(histogram) for histogram in found.histograms]))
    if found.functions:
        parts.append(_functions(found.functions))
    parts.append(terminal.checks_text(found.checks, verbose=verbose))
    return Group(*parts)


def _guest_rows(found: Analysis) -> Rows:
    boot, before, after = found.boot, found.before, found.after
    at_init = boot.unaccepted_at_init_pages
    rows = [("platform", found.platform)] if found.platform else []
    rows += [
        ("time to init / first SSH command", f"{_ns(boot.init_ns)} / {_ns(boot.first_command_ns)}"),
        (
            "unaccepted: at init, before, after the workload",
            " → ".join(
                format_size(pages * PAGE_SIZE)
                for pages in (at_init, before.unaccepted_pages, after.unaccepted_pages)
            ),
        ),
    ]
    if found.witness:
        rows.append(("seen by the platform", _witness_cell(found.witness)))
    if found.samples:
        rows += _sample_rows(found.samples)
    if found.clocks:
        drift = format_ns(found.clocks.drift_ns)
        error = format_ns(found.clocks.error_ns)
        rows.append(("guest clock against host", f"known to ±{error}, drifted {drift}"))
    if found.splats:
        rows.append(("console splats", f"{len(found.splats)}, first: {found.splats[0].line:.80}"))
    return rows


def _witness_cell(seen: PlatformInfo) -> str:
    small, large = (seen.accepts_with("ok", level) for level in (0, 1))
    flow = seen.flow
    return (
        f"{format_size(flow.accepted * PAGE_SIZE)} accepted in {large:,} calls of 2 MiB and "
        f"{small:,} of 4 KiB, {flow.private_to_shared + flow.pending_to_shared:,} pages shared, "
        f"{format_size(seen.pages.pending * PAGE_SIZE)} pending, {seen.violated} violations"
    )


def _sample_rows(samples: SampleFigures) -> Rows:
    cost = f"{samples.cpu_share:.2%} of one vCPU" if samples.cpu_share is not None else "unknown"
    cut = "" if samples.complete else ", CUT OFF"
    rows = [
        (
            "sampler",
            f"{samples.samples:,} samples, {samples.missed} ticks missed, cost {cost}{cut}",
        )
    ]
    if samples.steepest_gib_per_s is not None:
        rows.append(("steepest fall of nr_unaccepted", f"{samples.steepest_gib_per_s:.3g} GiB/s"))
    if samples.grew:
        grown = ", ".join(f"{name} +{by:,}" for name, by in samples.grew.items())
        rows.append(("reclaim, compaction, fallback meanwhile", grown))
    return rows


def _workload_rows(found: Analysis) -> Rows:
    rows = [
        (load.name, f"{format_size(load.touched_bytes)} in {format_ns(load.elapsed_ns)}")
        for load in found.workloads
    ]
    if found.stalls:
        rows.append(("share of acceptance in operations", ", ".join(map(_stall, found.stalls))))
    return rows


def _stall(stall: StallShare) -> str:
    which = "all" if not stall.percent else f"≥ p{stall.percent:g}"
    return f"{which}: {stall.share:.1%}"


def _latencies(found: Analysis) -> RenderableType:
    accepts = found.accepts
    assert accepts is not None
    rows = [
        _latency_row("accept call: platform", accepts.summary.accept),
        _latency_row("accept call: waiting", accepts.summary.wait),
    ]
    if found.operations:
        rows.append(_latency_row("workload operation", found.operations.latency))
    lost = f"{found.lost_events} LOST" if found.lost_events else "0 lost"
    title = (
        f"{accepts.summary.calls:,} accept calls for {accepts.summary.units:,} units of 2 MiB, "
        f"from the trace ({found.trace_source}), {lost}"
    )
    header = ["", "count", "p50", "p90", "p99", "p99.9", "p99.99", "max"]
    return terminal.columns(title, header, rows)


def _latency_row(name: str, latency: Latency | None) -> Sequence[str]:
    if latency is None:
        return [name, "0"] + ["–"] * 6
    count, *points, _total = dataclasses.astuple(latency)
    return [name, f"{count:,}", *map(format_ns, points)]


def _hist_row(histogram: KernelHistogram) -> tuple[str, str]:
    points = ", ".join(
        f"p{percent:g} ≤ {format_ns(histogram.at_most(percent))}" for percent in (50, 99, 99.9, 100)
    )
    return f"kernel's histogram of {histogram.field}", f"{histogram.total:,} events, {points}"


def _functions(found: Sequence[FunctionCost]) -> RenderableType:
    total = sum(function.instructions for function in found)
    rows = [
        (inert(function.name), f"{function.instructions:,}", f"{function.instructions / total:.2%}")
        for function in found[:_MAX_FUNCTIONS]
    ]
    title = f"{total:,} instructions between the workers' marks, {len(found)} functions"
    return terminal.columns(title, ["function, without what it calls", "instructions", ""], rows)


def _shares(accepts: AcceptFigures) -> RenderableType:
    sizes, overlap = accepts.bytes_per_call, accepts.concurrency
    rows: Rows = []
    if sizes:
        per_call = (sizes.min_bytes, sizes.p50_bytes, int(sizes.mean_bytes), sizes.max_bytes)
        rows.append(
            ("bytes per call: min / p50 / mean / max", " / ".join(map(format_size, per_call)))
        )
    rows += [
        (
            "throughput: per accept second / while any CPU accepts",
            f"{_rate(accepts.summary.gib_per_s)} / {_rate(accepts.gib_per_busy_s)}",
        ),
        (
            "CPUs inside acceptance: most / mean",
            f"{overlap.most_cpus} / {overlap.mean_cpus:.2f}, "
            f"any for {format_ns(overlap.busy_ns)}, {accepts.waited_calls:,} calls waited",
        ),
        (
            "by stage",
            ", ".join(f"{s.name} {format_size(s.units * UNIT_SIZE)}" for s in accepts.stages),
        ),
        ("by CPU", _per_cpu(accepts)),
        (
            "by caller",
            ", ".join(f"{c.name} {c.units * UNIT_SIZE / GIB:.3g} GiB" for c in accepts.callers[:3]),
        ),
    ]
    return terminal.figures(rows)


def _per_cpu(accepts: AcceptFigures) -> str:
    shown = [
        f"{cpu.cpu}: {format_size(cpu.units * UNIT_SIZE)} at {_rate(cpu.gib_per_s)}"
        for cpu in accepts.per_cpu[:_MAX_CPUS]
    ]
    more = len(accepts.per_cpu) - _MAX_CPUS
    return ", ".join([*shown, *([f"{more} more"] if more > 0 else [])])


def _rate(gib_per_s: float | None) -> str:
    return "–" if gib_per_s is None else f"{gib_per_s:.3g} GiB/s"


def _ns(value: int | None) -> str:
    return "–" if value is None else format_ns(value)


def prepared_rows(prepared: Prepared) -> Rows:
    spec, host = prepared.spec, prepared.host
    return [
        ("target", f"{spec.target.value}, {prepared.target.platform_words(spec)}"),
        ("accelerator", f"{host.accel.value} ({host.accel_reason})"),
        ("kernel", f"{prepared.kernel.release}, {spec.accept.value} acceptance"),
        ("cost of acceptance", prepared.target.cost_words(spec)),
    ]


def boot_rows(boot: BootRecord) -> Rows:
    unaccepted = ("unaccepted at init", format_size(boot.init.nr_unaccepted_pages * PAGE_SIZE))
    if boot.restored:
        start = ("restored from a snapshot, running", format_ns(boot.since_spawn_ns("restored")))
    else:
        start = ("time to init", format_ns(boot.since_spawn_ns("init")))
    command = ("time to first SSH command", format_ns(boot.since_spawn_ns("first_command")))
    return [unaccepted, start, command]
