# SPDX-License-Identifier: MIT
"""What a baseline or a failure refers to is never removed."""

import datetime
import sys
from pathlib import Path

import pytest

from harness.base.status import HostError, Status
from harness.cli import app as cli
from harness.compare.retention import examine, removable, remove
from tests.support.sample_runs import START, make_run

NOW = START + datetime.timedelta(days=100)


def test_failures_their_references_and_baselines_stay(tmp_path: Path) -> None:
    runs, baselines = tmp_path / "runs", tmp_path / "baselines"
    plain, compared, based = (make_run(runs, day=day) for day in range(3))
    failed = make_run(runs, day=3, status=Status.FAIL, against=compared.path.name)
    unsure = make_run(runs, day=4, status=Status.ERROR)
    missed = make_run(runs, day=5, status=Status.MISS)
    running = make_run(runs, day=99, finished=False)
    broken = make_run(runs, day=6)
    (broken.path / "run.json").write_text("{")
    (baselines / "host").mkdir(parents=True)
    (baselines / "host" / "touch.toml").write_text(f'runs = ["{based.path.name}"]\n')
    kept = examine(runs, [baselines], NOW)
    reasons = {run.path.name: run.pinned for run in kept}
    assert reasons[plain.path.name] == reasons[missed.path.name] == ""
    assert failed.path.name in reasons[compared.path.name]
    assert "touch.toml" in reasons[based.path.name]
    assert reasons[failed.path.name] == "FAIL"
    assert reasons[unsure.path.name] == "ERROR"
    assert "running" in reasons[running.path.name]
    assert "cannot be read" in reasons[broken.path.name]
    going = removable(kept, NOW, days=0, max_bytes=None)
    remove(going)
    assert {run.path for run in going} == {plain.path, missed.path}
    assert not plain.path.exists()
    assert compared.path.exists()


def test_age_and_size(tmp_path: Path) -> None:
    old, middle, new = (make_run(tmp_path, day=day) for day in (0, 50, 99))
    runs = examine(tmp_path, [], NOW)
    assert [r.path for r in removable(runs, NOW, days=60, max_bytes=None)] == [old.path]
    assert removable(runs, NOW, days=None, max_bytes=1 << 40) == []
    room = sum(run.size for run in runs) - 1
    assert [r.path for r in removable(runs, NOW, days=None, max_bytes=room)] == [old.path]
    every = [r.path for r in removable(runs, NOW, days=None, max_bytes=0)]
    assert every == [old.path, middle.path, new.path]


def test_an_unreadable_baseline_stops_everything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_run(tmp_path / "runs")
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "b.json").write_text("x")

    def refuse(*_: object, **__: object) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_text", refuse)
    with pytest.raises(HostError, match=r"b\.json"):
        examine(tmp_path / "runs", [tmp_path / "base"], NOW)


def test_gc_removes_runs_only_if_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CVM_HARNESS_CACHE", str(tmp_path / "cache"))
    run, failed = make_run(tmp_path / "runs"), make_run(tmp_path / "runs", status=Status.FAIL)

    def gc(*options: str) -> str:
        monkeypatch.setattr(sys, "argv", ["cvm-harness", "gc", *options])
        with pytest.raises(SystemExit) as end:
            cli.main()
        assert not end.value.code
        return capsys.readouterr().out

    gc()
    assert run.path.exists()
    said = gc("--runs-days=1", "--dry-run")
    assert run.path.exists()
    assert f"stays {failed.path.name}: FAIL" in said
    assert "would be removed: 1 of 2 runs" in said
    assert "removed: 1 of 2 runs" in gc("--runs-days=1")
    assert not run.path.exists()
    assert failed.path.exists()
