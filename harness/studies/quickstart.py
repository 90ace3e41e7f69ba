# SPDX-License-Identifier: MIT
"""The main job in one go: a lazy and an eager guest, memory touched in steps, table and page."""

import concurrent.futures
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from rich.table import Table

from harness.analysis.analyse import Analysis
from harness.base.spec import AcceptMode, GuestSpec
from harness.base.status import HostError
from harness.base.units import MIB, PAGE_SIZE, UNIT_SIZE, format_ns, format_size
from harness.kernel.kernel import Kernel
from harness.record.boot import BootRecord
from harness.record.run import load_record
from harness.record.view import RunView
from harness.report.html.content import runs_page
from harness.report.html.render import render
from harness.report.terminal import latency_cell, throughput_cell
from harness.run.prepared import Prepared
from harness.run.session import Session
from harness.studies.rounds import arms_table
from harness.targets.registry import target_for
from harness.workloads.base import WorkloadResult
from harness.workloads.touch import Touch

_TOUCH_SHARE = 0.375
_STEPS = 6


@dataclass(frozen=True)
class Arm:
    spec: GuestSpec
    outcome: Analysis
    boot: BootRecord
    workload: WorkloadResult
    directory: Path


def steps_for(memory: int) -> Touch:
    """Touch three eighths of `memory` bytes in six steps: grow, pause, grow."""
    step = int(memory * _TOUCH_SHARE) // _STEPS // (2 * MIB) * (2 * MIB)
    return Touch(bytes=step * _STEPS, step=step)


def compare_modes(
    session: Session, spec: GuestSpec, kernel: Kernel, rerun: str, notify: Callable[[str], None]
) -> list[Arm]:
    """The lazy arm and the eager one.

    One after the other, but where all of the platform is emulated both boot at the same time: there
    firmware and decompression are slow, and the work of one vCPU. Memory is touched in turns.
    """
    specs = [replace(spec, accept=mode) for mode in (AcceptMode.LAZY, AcceptMode.EAGER)]
    prepared = [session.prepare(one, kernel) for one in specs]
    at_once = len(prepared) if target_for(spec.target).platform_emulated(spec) else 1
    booted, turn = threading.Barrier(at_once), threading.Lock()

    def run_arm(arm: Prepared) -> Arm:
        name = arm.spec.accept.value
        notify(f"{name}: booting")
        try:
            with session.boot(arm, rerun=rerun) as run:
                booted.wait()
                with turn:
                    load = steps_for(spec.memory)
                    result = run.load(load, lambda line: notify(f"{name}: {line}"))
                    outcome = run.conclude()
                return Arm(arm.spec, outcome, run.guest.boot, result, run.directory.path)
        except BaseException:
            booted.abort()
            raise

    if at_once == 1:
        return [run_arm(arm) for arm in prepared]
    with concurrent.futures.ThreadPoolExecutor(at_once) as pool:
        running = [pool.submit(run_arm, arm) for arm in prepared]
        errors = [error for future in running if (error := future.exception())]
    # Of two arms the second may have waited for the first in vain.
    if first := next((e for e in errors if not isinstance(e, threading.BrokenBarrierError)), None):
        raise first
    return [future.result() for future in running]


def table(arms: list[Arm]) -> Table:
    """One column an arm, one row a figure."""
    firmware = any(arm.boot.restored for arm in arms)
    clock = "host clock, from the kernel's loading on" if firmware else "host clock"
    rows: list[tuple[str, Callable[[Arm], str]]] = [
        ("RAM of the guest", lambda a: format_size(a.spec.memory)),
        (
            "unaccepted at the first userspace instruction",
            lambda a: format_size(a.boot.init.nr_unaccepted_pages * PAGE_SIZE),
        ),
        ("touched by the workload", lambda a: format_size(a.workload.touched_bytes)),
        (
            "accepted while it ran",
            lambda a: format_size(
                (a.outcome.before.unaccepted_pages - a.outcome.after.unaccepted_pages) * PAGE_SIZE
            ),
        ),
        ("accepted since power-on, by the platform", lambda a: _accepted(a.outcome, a.directory)),
        (
            "accept calls traced",
            lambda a: f"{a.outcome.accepts.summary.calls:,}" if a.outcome.accepts else "–",
        ),
        (
            "accept latency per call, p50 / p99 / max",
            lambda a: latency_cell(a.outcome.accepts.summary.accept if a.outcome.accepts else None),
        ),
        (
            "accepted per second of accept time, GiB/s",
            lambda a: throughput_cell(a.outcome.accepts.summary if a.outcome.accepts else None),
        ),
        (f"time to init ({clock})", lambda a: format_ns(a.boot.since_start_ns("init"))),
        (
            f"time to the first SSH command ({clock})",
            lambda a: format_ns(a.boot.since_start_ns("first_command")),
        ),
        ("verdict", lambda a: a.outcome.status.value),
    ]
    spec = arms[0].spec
    title = f"Lazy against eager acceptance, {target_for(spec.target).provenance(spec)}"
    return arms_table(title, arms, lambda arm: arm.spec.accept.value, rows)


def _accepted(outcome: Analysis, directory: Path) -> str:
    """What the emulated platform, the kernel's or QEMU's, says; hardware tells nobody."""
    if outcome.after.emulation:
        return format_size(outcome.after.stat("accept_units") * UNIT_SIZE)
    reading = load_record(directory).platform.statistics.get("after")
    return format_size(reading.flow.accepted * PAGE_SIZE) if reading else "–"


def write_page(arms: list[Arm], runs: Path) -> Path:
    """Both runs on one HTML page in `runs`. Raises HostError where it cannot be written."""
    page = runs / f"quickstart-{arms[0].directory.name}.html"
    content = render(runs_page([RunView.load(arm.directory) for arm in arms]))
    try:
        page.write_text(content, encoding="utf-8")
    except OSError as error:
        raise HostError(f"cannot write {page}: {error.strerror}") from error
    return page
