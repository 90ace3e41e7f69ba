# SPDX-License-Identifier: MIT
"""Accept events from the trace event, from dynamic probes, and from both: the same accepts."""

import json
from pathlib import Path

import pytest

from harness.analysis.analyse import Analysis, analyse
from harness.base.spec import GuestSpec
from harness.base.status import PreconditionError, Status
from harness.base.units import MIB
from harness.collect import tracefs
from harness.collect.plan import Collect, TraceMode
from harness.collect.probes import boot_words
from harness.record.events import Events
from harness.record.rundir import plain
from harness.record.trace import parse_events
from harness.run.session import Session
from harness.suite.plugin.fixtures import Boot
from harness.suite.plugin.options import option
from harness.workloads.touch import ParallelTouch, Touch

pytestmark = pytest.mark.guest
LOAD = ParallelTouch(bytes=1024 * MIB, threads=2)
"""More than what boot has accepted and not used, some 600 MiB of 2 GiB: the rest has to be."""


def status_of(found: Analysis, name: str) -> Status:
    return next(check.status for check in found.checks if check.name.startswith(name))


@pytest.mark.parametrize("kernel", ["debian:6.12", "debian:7.3"])
def test_probes_and_trace_event_see_the_same_accepts_in_one_run(
    boot: Boot, cvm_session: Session, cvm_spec: GuestSpec, kernel: str
) -> None:
    built = cvm_session.kernel_for(cvm_spec, kernel)
    with boot(kernel=built, collect=Collect(trace=TraceMode.BOTH)) as run:
        run.load(LOAD)
        outcome = run.conclude()
    assert outcome.status is Status.PASS, outcome.cause
    assert status_of(outcome, "probes and trace event agree") is Status.PASS
    assert outcome.accepts is not None
    assert outcome.accepts.summary.calls > 50


def test_a_kernel_is_measured_through_probes_alone(boot: Boot) -> None:
    # No boot tracing: the kernel's own event stays off from the first moment to the last.
    with boot(trace_boot=False, collect=Collect(trace=TraceMode.PROBES)) as run:
        run.load(LOAD)
        outcome = run.conclude()
    assert outcome.status is Status.PASS, outcome.cause
    assert status_of(outcome, "probes account for every unit") is Status.PASS
    accepts = outcome.accepts
    assert accepts is not None
    assert accepts.summary.calls > 10
    assert accepts.summary.accept is not None
    assert accepts.callers[0].name == "__accept_page"
    stages = {stage.name: stage.units for stage in accepts.stages}
    assert stages["workload"] == accepts.summary.units


def test_a_kernel_that_has_no_such_event_is_measured_through_probes(
    boot: Boot, cvm_session: Session, cvm_spec: GuestSpec, pytestconfig: pytest.Config
) -> None:
    # accept_memory() is upstream's: the fragment takes the event out of the source again.
    source = option(pytestconfig, "--kernel")
    bare = cvm_session.kernel_for(cvm_spec, source, extra=("no-event",))
    with boot(kernel=bare) as run:
        events = run.guest.run("ls /sys/kernel/tracing/events").text.split()
        run.load(LOAD)
        outcome = run.conclude()
    assert "unaccepted_memory" not in events
    assert "kmem" in events
    assert outcome.status is Status.PASS, outcome.cause
    assert (outcome.trace_source or "").startswith("probes")
    assert status_of(outcome, "probes account for every unit") is Status.PASS
    accepts = outcome.accepts
    assert accepts is not None
    assert accepts.summary.calls > 10
    assert accepts.summary.accept is not None
    with (
        pytest.raises(PreconditionError),
        boot(kernel=bare, collect=Collect(trace=TraceMode.EVENT)),
    ):
        pytest.fail("a trace event was found in a kernel that has none")


def test_probes_from_the_command_line_see_the_boot_as_well(boot: Boot) -> None:
    collect = Collect(trace=TraceMode.PROBES)
    with boot(trace_boot=False, collect=collect, extra_cmdline=boot_words()) as run:
        run.load(LOAD)
        outcome = run.conclude()
    assert outcome.status is Status.PASS, outcome.cause
    assert outcome.trace_source == "probes (kprobe since boot)"
    assert outcome.accepts is not None
    # On since fs_initcall; whether anything is accepted between that and init is the boot's affair.
    assert outcome.accepts.summary.units > 0
    assert status_of(outcome, "probes account for every unit") is Status.PASS


def test_the_kernels_histograms_account_for_every_unit(boot: Boot) -> None:
    # One CPU: of two that add the same value at once the kernel may drop one (tracing_map.c),
    # which is counted and makes the run an ERROR.
    with boot(vcpus=1, collect=Collect(trace=TraceMode.HIST)) as run:
        run.load(LOAD)
        outcome = run.conclude()
    assert outcome.status is Status.PASS, outcome.cause
    assert status_of(outcome, "histogram accounts") is Status.PASS
    durations, waits = outcome.histograms
    assert (durations.field, waits.field) == ("duration_ns", "wait_ns")
    assert durations.total == waits.total > 10
    assert durations.at_most(50) > 0


def test_a_tiny_buffer_reports_its_losses_and_refuses_conservation(boot: Boot) -> None:
    with boot(collect=Collect(buffer_kib=4)) as run:
        run.load(Touch(bytes=1024 * MIB))
        outcome = run.conclude()
    assert outcome.lost_events > 0
    assert status_of(outcome, "trace accounts") is Status.ERROR
    assert outcome.status is Status.ERROR


def test_binary_pages_hold_what_the_text_says_and_the_record_gives_it_again(
    boot: Boot, tmp_path: Path
) -> None:
    with boot() as run:
        run.load(Touch(bytes=256 * MIB))
        tracefs.switch_event(run.guest, False)
        (tmp_path / "trace.txt").write_bytes(run.guest.get(f"{tracefs.TRACEFS}/trace"))
        outcome = run.conclude()
    assert outcome.status is Status.PASS, outcome.cause
    with (tmp_path / "trace.txt").open(errors="replace") as lines:
        text = list(parse_events(lines))
    names = ("time_ns", "cpu", "pid", "start_phys", "end_phys", "units", "duration_ns", "wait_ns")
    binary = sorted(
        row
        for batch in Events(run.directory.path / "events.parquet").batches(*names)
        for row in zip(*(batch[name].tolist() for name in names), strict=True)
    )
    assert len(binary) == len(text) > 40
    # The text's stamps are in microseconds, rounded to the nearest (trace_print_context()).
    text.sort(key=lambda event: (event.time_ns, event.cpu))
    expected = sorted(
        (e.cpu, e.pid, e.start, e.end, e.units, e.duration_ns, e.wait_ns) for e in text
    )
    assert sorted(row[1:] for row in binary) == expected
    for event in text:
        assert any(
            abs(row[0] - event.time_ns) <= 1000 and row[1] == event.cpu and row[3] == event.start
            for row in binary
        )
    again = analyse(run.directory.path)
    assert json.dumps(plain(again), default=str) == json.dumps(plain(outcome), default=str)
