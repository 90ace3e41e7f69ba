# SPDX-License-Identifier: MIT
"""A series, commit by commit, over a real git repository and a lab that answers by number."""

from pathlib import Path

import pytest
from rich.console import Console

from harness.base.status import PreconditionError, Status, UsageError
from harness.jobs.ledger import Ledger, Measurement
from harness.jobs.series.points import points_of
from harness.jobs.series.series import PatchSeries, SeriesCheck, warnings_in
from harness.record.journal import Journal
from harness.record.series import CommitResult
from harness.report.summaries import print_rows
from harness.targets.choose import guest_spec
from tests.support.numbered_lab import FakeLab, Killed, numbered_repository, run_git

SPEC = guest_spec(memory="1G", clock="icount")
COST = Measurement("cost.workload", ("touch",), SPEC)
CHECK = SeriesCheck(("t.py",), SPEC, cost=COST)


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return numbered_repository(tmp_path_factory.mktemp("linux"), 4)


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """What fsync is for is not what is tested here, and a busy disk takes seconds for each."""
    monkeypatch.setattr("os.fsync", lambda fd: None)


def series(tmp_path: Path, lab: FakeLab, check: SeriesCheck = CHECK) -> list[CommitResult]:
    points = points_of(f"git:{lab.repo}@c0..c4", None, tmp_path)
    with Journal(tmp_path / "journal.jsonl") as journal:
        return PatchSeries(Ledger(tmp_path, journal, lab), points, check).run()


def test_the_patch_that_costs_two_percent_is_named_and_no_other(repo: Path, tmp_path: Path) -> None:
    rows = series(tmp_path, FakeLab(repo, cost=lambda n: 1e9 * (1.02 if n >= 3 else 1.0)))
    assert [row.status for row in rows] == [Status.PASS] * 3 + [Status.FAIL, Status.PASS]
    assert "regressed: +2.00%" in rows[3].cause
    assert rows[4].change is not None
    assert abs(rows[4].change.effect) < 0.001
    assert rows[4].total is not None
    assert rows[4].total.effect == pytest.approx(0.02, abs=1e-3)
    console = Console(width=200, record=True, quiet=False, file=(tmp_path / "out").open("w"))
    print_rows(console, rows, tmp_path)
    text = console.export_text()
    assert text.count("FAIL") == 2, "in the table, and below it with the cause"
    assert "+2.00% ± " in text


def test_a_commit_that_does_not_build_fails_and_the_rest_is_checked(
    repo: Path, tmp_path: Path
) -> None:
    rows = series(tmp_path, FakeLab(repo, unbuildable=(2,)))
    assert [row.status for row in rows] == [
        *(Status.PASS, Status.PASS, Status.FAIL, Status.PASS, Status.PASS)
    ]
    assert rows[2].cause.startswith("the kernel does not build")
    assert rows[3].change is not None, "compared with the last commit that did build"


def test_new_warnings_in_touched_files_fail_and_old_ones_do_not(repo: Path, tmp_path: Path) -> None:
    old = "../mm/number.c:3:5: warning: unused variable 'x' [-Wunused-variable]"
    moved = "../mm/number.c:9:5: warning: unused variable 'x' [-Wunused-variable]"
    new = "../mm/number.c:4:1: warning: 'f' defined but not used [-Wunused-function]"
    elsewhere = "../include/linux/mm.h:4:1: warning: something [-Wsomething]"
    lab = FakeLab(
        repo,
        warnings={0: [old], 1: [old], 2: [moved, elsewhere], 3: [moved, new], 4: [moved, new]},
    )
    rows = series(tmp_path, lab)
    assert [row.status for row in rows].index(Status.FAIL) == 3
    assert [len(row.warnings) for row in rows] == [0, 0, 0, 1, 0]
    assert rows[3].cause == (
        "new warning: mm/number.c: warning: 'f' defined but not used [-Wunused-function]"
    )


def test_a_failing_test_is_repeated_and_its_commit_fails(repo: Path, tmp_path: Path) -> None:
    lab = FakeLab(repo, lambda n: (Status.FAIL, "wrong") if n == 2 else (Status.PASS, ""))
    rows = series(tmp_path, lab, SeriesCheck(("t.py",), SPEC))
    assert [row.status is Status.FAIL for row in rows] == [False, False, True, False, False]
    assert lab.runs[2] == 2
    assert rows[1].tests == "1 PASS"


@pytest.mark.parametrize("dies_at", [0, 2, 5, 11])
def test_a_killed_check_goes_on(repo: Path, tmp_path: Path, dies_at: int) -> None:
    with pytest.raises(Killed):
        series(tmp_path, first := FakeLab(repo, dies_at=dies_at))
    rows = series(tmp_path, second := FakeLab(repo))
    assert {row.status for row in rows} == {Status.PASS}
    assert sorted(first.built + second.built) == [0, 1, 2, 3, 4]
    assert set((first.runs + second.runs).values()) == {1 + COST.guests}


def test_patches_are_applied_one_more_at_a_time(repo: Path, tmp_path: Path) -> None:
    run_git(repo, "format-patch", "-q", "--cover-letter", f"-o{tmp_path / 'out'}", "c0..c3")
    mbox = tmp_path / "series.mbox"
    files = sorted((tmp_path / "out").glob("*.patch"))
    mbox.write_bytes(b"".join(file.read_bytes() for file in files))
    points = points_of(str(mbox), f"git:{repo}@c0", tmp_path / "work")
    assert [len(point.job.patches) for point in points] == [0, 1, 2, 3]
    assert "change 2" in points[2].title
    assert points[2].touched == ("mm/number.c",)
    assert {point.job.source for point in points} == {f"git:{repo}@c0"}
    of_directory = points_of(str(tmp_path / "out"), "debian:6.12", tmp_path / "again")
    assert [len(point.job.patches) for point in of_directory] == [0, 1, 2, 3]


def test_a_series_that_is_none_says_why(repo: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty.mbox"
    empty.touch()
    (tmp_path / "nothing").mkdir()
    merged = numbered_repository(tmp_path / "merged", 1)
    run_git(merged, "checkout", "-q", "-b", "side", "c0")
    (merged / "other").write_text("x")
    run_git(merged, "add", "other")
    run_git(merged, "commit", "-q", "-m", "side")
    run_git(merged, "merge", "-q", "--no-edit", "main")
    for text, base, kind, why in (
        (f"git:{repo}@c2..c2", None, PreconditionError, "is empty: it has no commit"),
        (f"git:{repo}@c2", None, UsageError, "not a range of commits"),
        (f"git:{repo}@c2..c9", None, UsageError, "no commit 'c9'"),
        (f"git:{tmp_path}@a..b", None, UsageError, "is not a git repository"),
        (f"git:{merged}@c0..side", None, UsageError, "a series must be linear"),
        (str(empty), "debian:6.12", PreconditionError, "is empty: it has no patch"),
        (str(tmp_path / "nothing"), "debian:6.12", PreconditionError, "is empty"),
        (str(tmp_path / "absent"), "debian:6.12", UsageError, "there is no patch"),
        (str(empty), None, UsageError, "patches need a base"),
    ):
        with pytest.raises(kind, match=why):
            points_of(text, base, tmp_path / "work")


def test_a_warning_has_no_line_number() -> None:
    lines = ["../a.c:1:2: warning: w [-Wx]", "../a.c:7:2: warning: w [-Wx]", "  CC  a.o"]
    assert warnings_in({"a.c": lines}) == ["a.c: warning: w [-Wx]"]
