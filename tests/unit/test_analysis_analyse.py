# SPDX-License-Identifier: MIT
"""A whole run directory, made here with known figures, is analysed to those figures."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.analysis.analyse import Analysis, analyse
from harness.base.status import PreconditionError, Status, UsageError
from harness.base.units import UNIT_SIZE
from harness.record.counters import Counters
from harness.record.events import TraceFacts
from harness.record.rundir import RunDir, plain
from harness.record.samples import Samples, write_samples
from harness.record.trace import AcceptEvent
from tests.support.event_files import write_events
from tests.support.readings import reading

MS = 1_000_000
INIT_NS, START_NS, STOP_NS = 100 * MS, 500 * MS, 900 * MS
WORKER = 77


def counters(unaccepted_blocks: int, accepted: int, pending: int) -> Counters:
    return reading(
        unaccepted_blocks * 1024,
        emulation={
            "units_marked": 20,
            "units_added": 0,
            "units_removed": 0,
            "accept_units": accepted,
            "untraced_units": 2,
            "table_pending": pending,
            "backend_pending": pending,
            "double_accepts": 0,
            "illegal_accesses": 0,
            "divergent": 0,
        },
    )


def accept(
    at: int, cpu: int = 0, pid: int = 1, first: bool = True, duration: int = MS, wait: int = 0
) -> AcceptEvent:
    return AcceptEvent(
        at, cpu, pid, "cvm", 0, UNIT_SIZE, 1, first, duration, wait, True, "__accept_page+0x7a/0xc0"
    )


# Two before init, two between, three in the workload (one call of two ranges, waited for 4 ms).
EVENTS = [
    accept(50 * MS, cpu=0),
    accept(60 * MS, cpu=0),
    accept(200 * MS, cpu=1),
    accept(300 * MS, cpu=1),
    accept(602 * MS, cpu=1, pid=WORKER, wait=4 * MS),
    accept(603 * MS, cpu=1, pid=WORKER, first=False),
    accept(700 * MS, cpu=0, pid=WORKER, duration=2 * MS),
]
REPORT = {
    "workload": "touch",
    "bytes": 1 << 20,
    "elapsed_ns": STOP_NS - START_NS,
    "operations": 3,
    "min_ns": 5,
    "max_ns": 10 * MS,
    "total_ns": 10 * MS + 4 * MS + 5,
    "workers": [
        {
            "pid": WORKER,
            "tid": WORKER,
            "cpu": -1,
            "bytes": 1 << 20,
            "operations": 3,
            "start_monotonic_ns": START_NS,
            "stop_monotonic_ns": STOP_NS,
            "total_ns": 10 * MS + 4 * MS + 5,
            "slowest": [[697 * MS, 4 * MS], [594 * MS, 10 * MS], [800 * MS, 5]],
        }
    ],
    "histogram": {"sub_bucket_bits": 6, "counts": [[5, 1], [1082, 1], [1164, 1]]},
}


# Six blocks of two units with the first unit of one accepted as a guard: 11 units pending.
PENDING_AFTER = (
    f"{30 * UNIT_SIZE:#x}-{40 * UNIT_SIZE:#x} table=1 backend=1\n"
    f"{43 * UNIT_SIZE:#x}-{44 * UNIT_SIZE:#x} table=1 backend=1\n"
)


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    directory = RunDir.create(tmp_path)
    path = directory.path
    directory.update(
        spec={"accept": "lazy"},
        boot={
            "stages": {"spawn": 10, "init": 10 + 3 * MS, "first_command": 10 + 5 * MS},
            "init": {"nr_unaccepted_pages": 8 * 1024, "monotonic_ns": INIT_NS},
        },
        counters_before=counters(7, accepted=6, pending=14),
        counters_after=counters(6, accepted=9, pending=11),
        clock_points=[
            {"host_ns": 1000, "guest_ns": 0, "error_ns": 10},
            {"host_ns": 1000 + 1000 * MS, "guest_ns": 1001 * MS, "error_ns": 20},
        ],
        splats=[],
        expected_splats=[],
    )
    (path / "workload.json").write_text(
        json.dumps(
            {
                "workloads": [
                    {
                        "name": "touch",
                        "touched_bytes": 1 << 20,
                        "elapsed_ns": STOP_NS - START_NS,
                        "parameters": {"bytes": 1 << 20},
                        "reports": [REPORT],
                    }
                ]
            }
        )
    )
    write_events(path / "events.parquet", EVENTS, TraceFacts("event", {0: 0, 1: 0}))
    (path / "pending.txt").write_text(PENDING_AFTER)
    names = ("monotonic_ns", "read_ns", "missed", "full", "vmstat.nr_unaccepted")
    rows = np.array([[500 * MS, 9, 0, 1, 7 * 1024], [900 * MS, 11, 0, 1, 6 * 1024]])
    write_samples(path, Samples(names, rows, 0, True, cpu_ns=4 * MS))
    return directory


def status_of(found: Analysis, name: str) -> Status:
    return next(check.status for check in found.checks if check.name.startswith(name))


def test_a_run_whose_figures_add_up_passes(run_dir: RunDir) -> None:
    found = analyse(run_dir.path)
    assert found.status is Status.PASS, found.cause
    assert status_of(found, "trace accounts") is Status.PASS
    assert status_of(found, "guard units explain") is Status.PASS
    assert found.boot.init_ns == 3 * MS
    assert found.boot.first_command_ns == 5 * MS


def test_calls_stages_and_cpus_split_the_events_without_loss(run_dir: RunDir) -> None:
    accepts = analyse(run_dir.path).accepts
    assert accepts is not None
    summary = accepts.summary
    assert (summary.calls, summary.events, summary.units) == (6, 7, 7)
    assert [(s.name, s.calls, s.units) for s in accepts.stages] == [
        ("before init", 2, 2),
        ("init to workload", 2, 2),
        ("workload", 2, 3),
        ("after the workload", 0, 0),
    ]
    assert [(c.cpu, c.calls, c.units, c.accept_ns) for c in accepts.per_cpu] == [
        (0, 3, 3, 4 * MS),
        (1, 3, 4, 4 * MS),
    ]
    assert accepts.per_cpu[1].wait_ns == 4 * MS
    assert [(c.name, c.units) for c in accepts.callers] == [("__accept_page", 7)]
    assert accepts.bytes_per_call is not None
    assert accepts.bytes_per_call.max_bytes == 2 * UNIT_SIZE
    assert accepts.waited_calls == 1
    assert summary.accept is not None
    assert summary.accept.max_ns == 2 * MS
    assert accepts.concurrency.most_cpus == 1


def test_acceptance_is_found_in_the_operations_that_paid_for_it(run_dir: RunDir) -> None:
    found = analyse(run_dir.path)
    all_, p99, *_ = found.stalls
    assert (all_.operations, all_.accept_ns, all_.wait_ns) == (3, 4 * MS, 4 * MS)
    # The slowest operation, 594 to 604 ms, holds two events: 2 ms accepting and 4 ms waiting.
    assert (p99.operations, p99.accept_ns, p99.wait_ns) == (1, 2 * MS, 4 * MS)
    assert p99.share == pytest.approx(0.6)


def test_the_sampler_tells_its_own_cost(run_dir: RunDir) -> None:
    samples = analyse(run_dir.path).samples
    assert samples is not None
    assert samples.cpu_share == pytest.approx(0.01)
    assert (samples.first_pages, samples.last_pages) == (7 * 1024, 6 * 1024)


def test_a_lossy_trace_voids_conservation_and_never_passes(run_dir: RunDir) -> None:
    path = run_dir.path / "events.parquet"
    write_events(path, EVENTS, TraceFacts("event", {0: 3, 1: 0}))
    found = analyse(run_dir.path)
    assert found.status is Status.ERROR
    assert status_of(found, "trace accounts") is Status.ERROR
    assert found.lost_events == 3
    write_events(path, EVENTS, TraceFacts("event", {0: 0}, lost_unknown=True))
    assert analyse(run_dir.path).status is Status.ERROR


def test_a_kernel_that_takes_no_probe_is_judged_without_and_says_so(run_dir: RunDir) -> None:
    (run_dir.path / "events.parquet").unlink()
    run_dir.update(trace_refused="the kernel takes no probes")
    found = analyse(run_dir.path)
    assert found.trace_source is None
    (said,) = [check for check in found.checks if check.status is Status.SKIP]
    assert said.detail == "the kernel takes no probes"
    assert found.status is Status.PASS


def test_a_missing_event_is_a_fail(run_dir: RunDir) -> None:
    write_events(run_dir.path / "events.parquet", EVENTS[1:], TraceFacts("event", {}))
    assert status_of(analyse(run_dir.path), "trace accounts") is Status.FAIL


def test_a_counter_that_guards_do_not_explain_is_a_fail(run_dir: RunDir) -> None:
    (run_dir.path / "pending.txt").write_text(
        f"{30 * UNIT_SIZE:#x}-{41 * UNIT_SIZE:#x} table=1 backend=1\n"
    )
    assert status_of(analyse(run_dir.path), "guard units explain") is Status.PASS  # 6 blocks, too
    (run_dir.path / "pending.txt").write_text(
        f"{30 * UNIT_SIZE:#x}-{40 * UNIT_SIZE:#x} table=1 backend=1\n"
        f"{43 * UNIT_SIZE:#x}-{44 * UNIT_SIZE:#x} table=0 backend=1\n"
    )
    assert status_of(analyse(run_dir.path), "guard units explain") is Status.ERROR
    # One block more than the table explains: the accepted one right below what is pending.
    run_dir.update(counters_after=counters(6, accepted=10, pending=10))
    assert status_of(analyse(run_dir.path), "guard units explain") is Status.PASS
    for blocks in (7, 4):
        run_dir.update(counters_after=counters(blocks, accepted=10, pending=10))
        assert status_of(analyse(run_dir.path), "guard units explain") is Status.FAIL


def test_firmwares_table_may_leave_a_few_blocks_that_nothing_pending_explains(
    run_dir: RunDir,
) -> None:
    (run_dir.path / "pending.txt").write_text(
        f"{30 * UNIT_SIZE:#x}-{40 * UNIT_SIZE:#x} table=1 backend=1\n"
    )

    def verdict(route: str, blocks: int) -> Status:
        after = counters(blocks, accepted=10, pending=10)
        after = dataclasses.replace(after, emulation={**after.emulation, "route": route})
        run_dir.update(counters_after=after)
        return status_of(analyse(run_dir.path), "guard units explain")

    edge = 1  # the accepted block right below what is pending, as on any route
    assert verdict("direct", 5 + edge) is Status.PASS
    assert verdict("direct", 5 + edge + 1) is Status.FAIL
    assert verdict("efi", 5 + edge + 4) is Status.PASS
    assert verdict("efi", 5 + edge + 5) is Status.FAIL
    assert verdict("efi", 4) is Status.FAIL


def test_a_counter_that_rises_is_a_fail(run_dir: RunDir) -> None:
    names = ("monotonic_ns", "read_ns", "missed", "full", "vmstat.nr_unaccepted")
    rows = np.array([[1, 9, 0, 1, 6 * 1024], [2, 11, 0, 1, 7 * 1024]])
    write_samples(run_dir.path, Samples(names, rows, 0, True))
    assert status_of(analyse(run_dir.path), "nr_unaccepted never rose") is Status.FAIL


def test_a_splat_is_put_on_the_guests_axis_and_fails_the_run(run_dir: RunDir) -> None:
    splat = {"kind": "oops", "line": "BUG: unable to handle", "host_ns": 1000 + 500 * MS}
    run_dir.update(splats=[splat])
    found = analyse(run_dir.path)
    assert found.status is Status.FAIL
    # The guest's clock ran 0.1 % fast between the two comparisons.
    assert found.splats[0].guest_ns == 500 * MS + MS // 2
    run_dir.update(expected_splats=["oops"])
    assert analyse(run_dir.path).status is Status.PASS


def test_the_same_directory_gives_the_same_analysis(run_dir: RunDir) -> None:
    first, second = (json.dumps(plain(analyse(run_dir.path))) for _ in range(2))
    assert first == second


@pytest.mark.parametrize("file", ["events.parquet", "vmstat.parquet", "workload.json"])
@pytest.mark.parametrize("content", [b"", b"{}", b"PAR1 and then nothing", b'{"workloads":[1]}'])
def test_files_that_cannot_be_read_are_an_error(run_dir: RunDir, file: str, content: bytes) -> None:
    (run_dir.path / file).write_bytes(content)
    with pytest.raises(PreconditionError, match=file):
        analyse(run_dir.path)


def report_with(**changes: Any) -> dict[str, Any]:
    return {**REPORT, **changes}


@pytest.mark.parametrize(
    "report",
    [
        report_with(operations=4),
        report_with(workers=None),
        report_with(workers=[{"tid": -1}]),
        report_with(workers=[{**REPORT["workers"][0], "slowest": [[1]]}]),  # type: ignore[index]
        report_with(histogram={"sub_bucket_bits": 6, "counts": "x"}),
    ],
)
def test_reports_that_contradict_themselves_are_an_error(
    run_dir: RunDir, report: dict[str, Any]
) -> None:
    loads = json.loads((run_dir.path / "workload.json").read_text())
    loads["workloads"][0]["reports"] = [report]
    (run_dir.path / "workload.json").write_text(json.dumps(loads))
    with pytest.raises(PreconditionError):
        analyse(run_dir.path)


def test_a_run_that_broke_is_an_error_with_its_cause(tmp_path: Path) -> None:
    directory = RunDir.create(tmp_path)
    with pytest.raises(PreconditionError, match="did not finish"):
        analyse(directory.path)
    with pytest.raises(UsageError):
        analyse(tmp_path / "nowhere")
