# SPDX-License-Identifier: MIT
"""Every export is taken by a program that others wrote for its format."""

import io
import json
import sys
from pathlib import Path

import junitparser
import kcidb_io
import pyarrow.parquet as pq
import pytest

from harness.analysis.metrics import METRICS
from harness.base.status import Status, UsageError
from harness.cli import app as cli
from harness.record.check import Check
from harness.record.view import RunView
from harness.report.junit import junit
from harness.report.kcidb import VERSION, kcidb
from harness.report.ktap import ktap
from harness.report.tables import metric_table, to_csv, to_parquet
from tests.support.sample_runs import make_run

HOSTILE = "</failure>]]><script>alert(1)</script> \x1b[2J\x00\ud800\u202e not ok 1 # SKIP\n1..0"
"""What a guest could print to be taken for something else."""


@pytest.fixture
def views(tmp_path: Path) -> list[RunView]:
    """One run of each status, with checks of each status, a hostile one and an unfinished one."""
    checks = tuple(Check(f"{status.value} check", status, "figures") for status in Status)
    hostile = (Check(HOSTILE, Status.FAIL, HOSTILE), Check("same", Status.PASS, ""))
    for day, status in enumerate(Status):
        make_run(tmp_path, day=day, status=status, cause="why", checks=checks)
    bad = make_run(tmp_path, day=8, status=Status.FAIL, cause=HOSTILE, checks=hostile)
    (bad.path / "console.log").write_bytes(HOSTILE.encode(errors="surrogatepass") + b"\xff\xfe" * 9)
    make_run(tmp_path, day=9, finished=False)
    return [RunView.load(path) for path in sorted(tmp_path.iterdir())]


def test_kcidb_data_follow_the_published_schema(views: list[RunView]) -> None:
    report = json.loads(json.dumps(kcidb(views, "cvm_harness")))
    newest = kcidb_io.schema.LATEST
    assert (newest.major, newest.minor) >= (VERSION["major"], VERSION["minor"])
    assert newest.is_valid_exactly(report)
    statuses = {test["status"] for test in report["tests"]}
    assert statuses == {status.value for status in Status}
    numbers = {
        test["path"].removeprefix("cvm_acceptance.touch.metrics."): test["number"]
        for test in report["tests"]
        if "number" in test
    }
    latency = numbers["accept.p99_ns"]
    assert latency == {"value": pytest.approx(0.00131), "unit": "s", "prefix": "metric"}
    assert numbers["workload.touched_bytes"] == {
        "value": 1 << 30,
        "unit": "B",
        "prefix": "binary",
    }
    assert len({test["id"] for test in report["tests"]}) == len(report["tests"])


def test_kcidb_refuses_an_origin_it_would_not_take(views: list[RunView]) -> None:
    with pytest.raises(UsageError, match="My CI"):
        kcidb(views, "My CI")


def test_junit_is_read_by_a_junit_parser(views: list[RunView]) -> None:
    suites = list(junitparser.JUnitXml.fromstring(junit(views)))
    assert len(suites) == len(views)
    for suite, view in zip(suites, views, strict=True):
        cases = list(suite)
        assert len(cases) == len(view.checks) + 1 == suite.tests
        kinds = [type(result).__name__ for case in cases for result in case.result]
        assert kinds.count("Failure") == suite.failures
        assert kinds.count("Error") == suite.errors
        assert kinds.count("Skipped") == suite.skipped
    properties = {p.get("name"): p.get("value") for p in suites[0]._elem.iter("property")}
    assert properties["kernel"] == "6.12.117-cvm-0a1b2c3d"
    assert properties["target"] == "emulated"
    assert float(properties["accept.p99_ns"] or 0) == 1_310_000


def test_ktap_has_as_many_results_as_it_plans(views: list[RunView]) -> None:
    """kunit's own parser reads it in tests/guest/test_results.py."""
    lines = ktap(views).splitlines()
    assert lines[:2] == ["KTAP version 1", f"1..{len(views)}"]
    top = [line for line in lines if line.startswith(("ok ", "not ok "))]
    assert len(top) == len(views)
    results = [line.split(" # ")[0].split()[0] for line in top]
    by_status = dict(zip(Status, results, strict=False))
    assert [s.value for s, word in by_status.items() if word == "not"] == ["FAIL", "ERROR", "MISS"]
    assert any(line.startswith("ok 6 ") and line.endswith("# SKIP why") for line in top)
    assert not any(line.startswith("1..0") for line in lines)
    assert all(line.isprintable() for line in lines)


def test_tables_hold_every_metric_with_its_unit(views: list[RunView]) -> None:
    table = pq.read_table(io.BytesIO(to_parquet(metric_table(views))))
    assert table.num_rows == len(views)
    for metric in METRICS:
        assert table.schema.field(metric.name).metadata[b"unit"].decode() == metric.unit
    assert table["accept.p99_ns"].to_pylist()[-2:] == [1_310_000, None]
    header, *rows = to_csv(metric_table(views)).decode().splitlines()
    assert header.count(",") == rows[0].count(",")
    assert len(rows) == len(views)


@pytest.mark.parametrize("name", ["ktap", "kcidb", "junit", "csv"])
def test_text_exports_hold_nothing_that_takes_effect(views: list[RunView], name: str) -> None:
    content = {
        "ktap": lambda: ktap(views).encode(),
        "kcidb": lambda: json.dumps(kcidb(views, "x"), ensure_ascii=False).encode(),
        "junit": lambda: junit(views),
        "csv": lambda: to_csv(metric_table(views)),
    }[name]()
    text = content.decode()  # whole UTF-8
    assert "alert(1)" in text
    for bad in ("\x1b", "\x00", "\u202e"):
        assert bad not in text
    if name == "junit":
        assert "<script>" not in text


def test_the_verb_writes_files_and_refuses_what_it_cannot_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run(tmp_path / "runs")

    def call(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["cvm-harness", "export", *arguments])
        with pytest.raises(SystemExit) as end:
            cli.main()
        return int(end.value.code or 0)

    runs, file = f"--runs={tmp_path / 'runs'}", tmp_path / "out.csv"
    assert call("csv", runs, "-o", str(file)) == 0
    assert file.read_text().count("\n") == 2
    assert call("yaml", runs) == 2
    assert call("perfetto", runs) == 2  # without -o
    assert call("csv", runs, "--kernel=5.4") == 2
    assert call("csv", "/nowhere") == 2
    assert call("csv", runs, "-o", "/nowhere/x") == 69
    errors = capsys.readouterr().err
    for words in ("unknown format 'yaml'", "one run's file", "no run in", "not a run directory"):
        assert words in errors
