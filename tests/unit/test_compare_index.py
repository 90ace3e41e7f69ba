# SPDX-License-Identifier: MIT
"""The index says what the run directories say, always, and costs little."""

import json
import shutil
import time
from pathlib import Path

import numpy as np
import pytest

from harness.base.spec import AcceptMode
from harness.base.status import Status, UsageError
from harness.compare.history import series_of
from harness.compare.index import FILE, Filter, index_of
from harness.record.rundir import RunDir, write_json
from harness.record.view import RunView
from tests.support.sample_runs import make_run

ALL = Filter()


def ids(root: Path, wanted: Filter = ALL) -> list[str]:
    index = index_of(root)
    return [row.id for row in index.runs(wanted)]


def test_runs_appear_change_and_vanish(tmp_path: Path) -> None:
    first, second = make_run(tmp_path, day=0), make_run(tmp_path, day=1, finished=False)
    assert ids(tmp_path) == [first.path.name, second.path.name]
    index = index_of(tmp_path)
    assert [row.status for row in index.runs()] == ["PASS", "MISS"]
    second.finish(Status.FAIL, "a panic")
    assert ids(tmp_path, Filter(status=(Status.FAIL,))) == [second.path.name]
    shutil.rmtree(first.path)
    assert ids(tmp_path) == [second.path.name]
    index = index_of(tmp_path)
    assert index.history("accept.p50_ns") == []


def test_filters(tmp_path: Path) -> None:
    old = make_run(tmp_path, day=0, kernel="6.12.9-cvm-1")
    new = make_run(tmp_path, day=9, kernel="7.3.4-cvm-2", accept=AcceptMode.EAGER, cause="x%y")
    for wanted, found in (
        (Filter(kernel="6.12"), old),
        (Filter(kernel="7.3"), new),
        (Filter(accept="eager"), new),
        (Filter(since="2026-03-05"), new),
        (Filter(cause="%"), new),
        (Filter(workload="touch", kernel="6.12", target="emulated"), old),
    ):
        assert ids(tmp_path, wanted) == [found.path.name], wanted
    assert ids(tmp_path, Filter(workload="drain")) == []


@pytest.mark.parametrize("damage", [b"", b"no database at all" * 999, None])
def test_a_damaged_or_missing_index_is_made_anew(tmp_path: Path, damage: bytes | None) -> None:
    run = make_run(tmp_path)
    assert ids(tmp_path) == [run.path.name]
    if damage is None:
        content = bytearray((tmp_path / FILE).read_bytes())
        content[5000:9000] = b"\xff" * 4000
        (tmp_path / FILE).write_bytes(content)
    else:
        (tmp_path / FILE).write_bytes(damage)
    assert ids(tmp_path) == [run.path.name]


def test_one_unreadable_run_hides_no_other(tmp_path: Path) -> None:
    good, bad = make_run(tmp_path, day=0), make_run(tmp_path, day=1)
    (bad.path / "run.json").write_text('{"schema": 1, "status": "PASSED"}')
    index = index_of(tmp_path)
    assert [row.id for row in index.runs()] == [good.path.name]
    ((name, why),) = index.unreadable()
    assert name == bad.path.name
    assert "PASSED" in why


def test_values_of_the_wrong_kind_are_missing_not_fatal(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    record = json.loads((run.path / "run.json").read_text())
    record.update(
        cause="\ud800 \x1b[2J \x00",
        spec=[],
        kernel="x",
        boot={"stages": 3},
        accepts={"calls": "no"},
    )
    record["counters_after"] = {"emulation": {"units_before_init": 10**400}}
    (run.path / "run.json").write_text(json.dumps(record))
    index = index_of(tmp_path)
    (row,) = index.runs()
    assert index.history("accept.calls") == index.history("boot.accepted_units") == []
    assert row.cause == "\\ud800 \\x1b[2J \\x00"
    assert row.memory_bytes is None


def test_a_directory_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not a directory of runs"):
        index_of(tmp_path / "no")


def test_a_hostile_workload_report_is_read_as_missing(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    (run.path / "workload.json").write_text("[" * 100_000)
    view = RunView.load(run.path)
    assert view.workload is None
    assert view.workload_name == ""


def test_only_runs_of_one_configuration_make_a_series(tmp_path: Path) -> None:
    for day in range(4):
        make_run(tmp_path, day=day, kernel=f"7.3.{day}-cvm-1")
    make_run(tmp_path, day=5, accept=AcceptMode.EAGER)
    make_run(tmp_path, day=6, workload="drain")
    index = index_of(tmp_path)
    series = series_of("accept.p99_ns", index.history("accept.p99_ns"))
    assert [len(one.points) for one in series] == [4, 1, 1]
    assert "eager" in series[1].configuration or "eager" in series[2].configuration


def test_a_thousand_runs_are_indexed_and_their_trend_found_in_five_seconds(tmp_path: Path) -> None:
    model = make_run(tmp_path / "model")
    record, workload = model.record, json.loads((model.path / "workload.json").read_text())
    noise = np.random.default_rng(5).normal(1, 0.004, 1000)
    for number in range(1000):
        run = RunDir.create(tmp_path / "runs")
        slower = 1.02 if number >= 700 else 1.0
        accepts = {"accept": {"p99_ns": 1e6 * slower * noise[number]}}
        started = f"2026-03-01T00:{number // 60:02}:{number % 60:02}+00:00"
        run.update(**record | {"id": run.path.name, "accepts": accepts, "started_utc": started})
        write_json(run.path / "workload.json", workload)
    begin_s = time.process_time()  # what other work on the machine does not lengthen
    index = index_of(tmp_path / "runs")
    (series,) = series_of("accept.p99_ns", index.history("accept.p99_ns"))
    elapsed_s = time.process_time() - begin_s
    assert len(series.points) == 1000
    (change,) = series.changes
    assert 695 <= change.index <= 705
    assert change.relative == pytest.approx(0.02, abs=0.002)
    assert elapsed_s <= 5
