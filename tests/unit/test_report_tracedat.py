# SPDX-License-Identifier: MIT
"""trace.dat as trace-cmd itself reads it: every event, with every figure, in order of time."""

import re
import shutil
import subprocess
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from harness.base.status import PreconditionError
from harness.record.view import RunView
from harness.report.tracedat import write_trace_dat
from tests.support.sample_runs import make_measured_run, make_run

_EVENT = re.compile(
    r"\s*(?P<comm>.+)-(?P<pid>\d+)\s+\[(?P<cpu>\d+)\]\s+"
    r"(?P<time>[\d.]+): accept_memory:\s+(?P<rest>.*)"
)
needs_trace_cmd = pytest.mark.skipif(
    shutil.which("trace-cmd") is None, reason="trace-cmd is not installed (scripts/setup --dev)"
)


@needs_trace_cmd
def test_trace_cmd_reads_every_event(tmp_path: Path) -> None:
    run = make_measured_run(tmp_path, calls=1000)
    out = tmp_path / "trace.dat"
    write_trace_dat(RunView.load(run.path), out)
    command = ["trace-cmd", "report", "-i", str(out)]
    said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    read = [_EVENT.match(line) for line in said.splitlines()[1:]]
    rows = sorted(
        pq.read_table(run.path / "events.parquet").to_pylist(), key=lambda row: row["time_ns"]
    )
    assert len(read) == len(rows) == 1000
    for event, row in zip(read, rows, strict=True):
        assert event
        values = dict(pair.split("=") for pair in event["rest"].split())
        assert (event["comm"], int(event["pid"]), int(event["cpu"])) == (
            row["comm"],
            row["pid"],
            row["cpu"],
        )
        assert float(event["time"]) == pytest.approx(row["time_ns"] / 1e9, abs=1e-6)
        assert int(values.pop("start"), 16) == row["start_phys"]
        assert int(values.pop("end"), 16) == row["end_phys"]
        assert values.pop("caller") == row["caller"].partition("/")[0]
        assert {name: int(value) for name, value in values.items()} == {
            name: row[name] for name in ("units", "first", "duration_ns", "wait_ns", "irqs_off")
        }


def test_a_run_that_did_not_end_is_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path, finished=False)
    with pytest.raises(PreconditionError, match="not finished"):
        write_trace_dat(RunView.load(run.path), tmp_path / "trace.dat")
