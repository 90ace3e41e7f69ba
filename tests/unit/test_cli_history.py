# SPDX-License-Identifier: MIT
"""`list` and `history` say what the run directories hold, for people and for machines."""

import json
import sys
from pathlib import Path

import pytest

from harness.base.status import Status
from harness.cli import app as cli
from tests.support.sample_runs import make_run

Captured = pytest.CaptureFixture[str]


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["cvm-harness", *arguments])
    with pytest.raises(SystemExit) as end:
        cli.main()
    return int(end.value.code or 0)


def test_list_filters_and_passes_over_what_is_broken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    make_run(tmp_path)
    failed = make_run(tmp_path, day=1, status=Status.FAIL, cause="panic: \x1b[31mred <b>")
    broken = make_run(tmp_path, day=2)
    (broken.path / "run.json").write_text("{")
    assert call(monkeypatch, "list", "--runs", str(tmp_path), "--status=fail") == 0
    out, err = capsys.readouterr()
    (line,) = [line for line in out.splitlines() if "FAIL" in line]
    assert failed.path.name in line
    assert "panic: \\x1b[31mred <b>" in line
    assert "\x1b" not in out
    assert f"passed over {broken.path.name}" in err
    assert call(monkeypatch, "list", "--runs", str(tmp_path), "--json") == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["status"] for row in rows] == ["PASS", "FAIL"]


def test_history_names_the_run_and_kernel_where_the_level_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    for day in range(12):
        slow = 1.02 if day >= 8 else 1.0
        make_run(
            tmp_path,
            day=day,
            kernel=f"7.3.{day}-cvm-1",
            first_command_ns=int((2_300_000_000 + day % 3 * 1_000_000) * slow),
        )
    arguments = ["history", "boot.first_command_ns", "--runs", str(tmp_path)]
    assert call(monkeypatch, *arguments, "--points") == 0
    out = capsys.readouterr().out
    (change,) = [line for line in out.splitlines() if line.startswith("level changes at")]
    assert "kernel 7.3.8-cvm-1" in change
    assert "+2" in change
    assert call(monkeypatch, *arguments, "--json") == 0
    (series,) = json.loads(capsys.readouterr().out)
    assert len(series["points"]) == 12
    assert series["changes"][0]["run"] == series["points"][8]["run"]


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["history", "boot.speed"], 2, "unknown metric 'boot.speed'"),
        (["list", "--status=broken"], 2, "unknown status 'BROKEN'"),
        (["list", "--since=yesterday"], 2, "not a day"),
        (["list", "--runs=/nowhere"], 2, "not a directory of runs"),
        (["history"], 0, ""),
    ],
)
def test_bad_input(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Captured,
    arguments: list[str],
    code: int,
    says: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    assert call(monkeypatch, *arguments) == code
    assert says in capsys.readouterr().err
