# SPDX-License-Identifier: MIT
"""Bisection over a real git repository and a lab that answers by the commit's number."""

import math
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.base.status import HarnessError, Status, UsageError
from harness.jobs.bisect.bisect import Bisect, BisectResult
from harness.jobs.bisect.step import judge_step
from harness.jobs.bisect.trial import MetricTrial, SuiteTrial, look_of, passes_needed
from harness.jobs.ledger import Ledger, Measurement
from harness.record.journal import Journal
from harness.targets.choose import guest_spec
from tests.support.numbered_lab import FakeLab, Killed, numbered_repository, run_git

COMMITS = 12
SPEC = guest_spec(memory="1G", clock="icount")
BUG = "table bounds: nr_unaccepted 4096 pages, pending 512"
Question = Callable[[Ledger], SuiteTrial | MetricTrial]
CRASH = "kernel panic: check not written yet at mm/util.c:1207"


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return numbered_repository(tmp_path_factory.mktemp("linux"), COMMITS)


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """What fsync is for is not what is tested here, and a busy disk takes seconds for each."""
    monkeypatch.setattr("os.fsync", lambda fd: None)


def bisect(
    tmp_path: Path,
    lab: FakeLab,
    question: Question,
    good: str = "c0",
    bad: str = "c12",
) -> BisectResult:
    with Journal(tmp_path / "journal.jsonl") as journal:
        journal.append("session")
        ledger = Ledger(tmp_path, journal, lab)
        return Bisect(ledger, question(ledger), lab.repo, good, bad).run()


def by_test(ledger: Ledger) -> SuiteTrial:
    return SuiteTrial(ledger, ("t.py",), SPEC)


def by_metric(ledger: Ledger) -> MetricTrial:
    return MetricTrial(ledger, Measurement("cost.workload", ("touch",), SPEC))


def broken_from(first: int, crash: int | None = None) -> Callable[[int], tuple[Status, str]]:
    def test(number: int) -> tuple[Status, str]:
        if number == crash:
            return Status.FAIL, CRASH
        return (Status.FAIL, BUG) if number >= first else (Status.PASS, "")

    return test


@pytest.mark.parametrize("first", range(1, COMMITS + 1))
def test_it_names_the_commit_that_broke_the_test(repo: Path, tmp_path: Path, first: int) -> None:
    lab = FakeLab(repo, broken_from(first))
    result = bisect(tmp_path, lab, by_test)
    assert result.status is Status.DONE
    assert result.candidates[0].endswith(f"change {first}")
    assert result.builds <= math.ceil(math.log2(COMMITS)) + 2
    assert len(lab.built) == len(set(lab.built)) == result.builds
    assert BUG in result.bad_evidence.reason
    assert "passes" in result.good_evidence.reason
    assert result.reproduce == f"pytest {first}"


def test_what_does_not_build_or_fails_in_another_way_is_skipped(repo: Path, tmp_path: Path) -> None:
    lab = FakeLab(repo, broken_from(7, crash=8), unbuildable=(5, 6))
    result = bisect(tmp_path, lab, by_test)
    # 6 does not build, so 7 cannot be told from 5 and 6, if git comes by them.
    assert any(candidate.endswith("change 7") for candidate in result.candidates)
    assert all(number not in lab.runs for number in (5, 6))
    lab = FakeLab(repo, broken_from(7, crash=8), unbuildable=(5,))
    (tmp_path / "other").mkdir()
    result = bisect(tmp_path / "other", lab, by_test)
    assert [c.endswith("change 7") for c in result.candidates] == [True]
    assert 8 in lab.built, "the crash was met, and skipped"


def test_where_nothing_can_be_judged_it_says_which_commits_are_left(
    repo: Path, tmp_path: Path
) -> None:
    lab = FakeLab(repo, broken_from(7), unbuildable=tuple(range(1, 12)))
    result = bisect(tmp_path, lab, by_test)
    assert result.status is Status.ERROR
    assert len(result.candidates) == COMMITS


@pytest.mark.parametrize("first", [1, 3, 12])
def test_it_names_the_commit_that_made_it_one_percent_dearer(
    repo: Path, tmp_path: Path, first: int
) -> None:
    # Other commits move the cost, too: up by a tenth of that, and down.
    lab = FakeLab(
        repo,
        cost=lambda n: 1e9 * (1.01 if n >= first else 1.0) * (1.0008 if n % 2 else 1.0),
        unbuildable=(5,),
    )
    result = bisect(tmp_path, lab, by_metric)
    assert result.candidates[0].endswith(f"change {first}")
    assert "regressed" in result.bad_evidence.reason


def test_ends_that_are_not_what_they_are_said_to_be_are_an_error(
    repo: Path, tmp_path: Path
) -> None:
    for name, lab, question, why in (
        ("a", FakeLab(repo), by_test, "the bad end is not bad: it passed 10 times"),
        ("b", FakeLab(repo, broken_from(0)), by_test, "the good end is not good"),
        ("c", FakeLab(repo), by_metric, "the bad end is not worse"),
        ("d", FakeLab(repo, lambda n: (Status.MISS, "no QEMU")), by_test, "cannot be judged: "),
    ):
        (tmp_path / name).mkdir()
        with pytest.raises(HarnessError, match=why) as caught:
            bisect(tmp_path / name, lab, question)
        assert caught.value.status is Status.ERROR
        assert set(lab.built) <= {0, 12}


def test_a_bug_that_strikes_now_and_then_gets_enough_runs_to_show(
    repo: Path, tmp_path: Path
) -> None:
    seen: Counter[int] = Counter()

    def now_and_then(number: int) -> tuple[Status, str]:
        seen[number] += 1
        strikes = number >= 7 and seen[number] % 3 == 2
        return (Status.FAIL, BUG) if strikes else (Status.PASS, "")

    result = bisect(tmp_path, FakeLab(repo, now_and_then), by_test)
    assert result.candidates[0].endswith("change 7")
    assert seen[0] == passes_needed(1, 3) == 12


@pytest.mark.parametrize("dies_at", [0, 1, 4, 6, 9, 12])
@pytest.mark.parametrize("question", [by_test, by_metric])
def test_a_killed_bisection_goes_on(
    repo: Path, tmp_path: Path, question: Question, dies_at: int
) -> None:
    def lab(dies_at: int | None = None) -> FakeLab:
        test = broken_from(7) if question is by_test else (lambda n: (Status.PASS, ""))
        return FakeLab(repo, test, lambda n: 1e9 * (1.01 if n >= 7 else 1), dies_at=dies_at)

    whole, first, second = lab(), lab(dies_at), lab()
    (tmp_path / "whole").mkdir()
    expected = bisect(tmp_path / "whole", whole, question)
    killed = tmp_path / "killed"
    killed.mkdir()
    with pytest.raises(Killed):
        bisect(killed, first, question)
    result = bisect(killed, second, question)
    assert result.commits == expected.commits
    assert first.built + second.built == whole.built
    assert first.runs + second.runs == whole.runs


def test_the_users_repository_is_not_touched(repo: Path, tmp_path: Path) -> None:
    before = sorted((p, p.stat().st_mtime_ns) for p in repo.rglob("*"))
    bisect(tmp_path, FakeLab(repo, broken_from(7)), by_test)
    assert sorted((p, p.stat().st_mtime_ns) for p in repo.rglob("*")) == before


def test_a_range_that_makes_no_sense_is_refused(repo: Path, tmp_path: Path) -> None:
    lab = FakeLab(repo)
    with pytest.raises(UsageError, match="not an ancestor"):
        bisect(tmp_path, lab, by_test, good="c12", bad="c0")
    with pytest.raises(UsageError, match="the same"):
        bisect(tmp_path, lab, by_test, good="c3", bad="c3")
    with pytest.raises(UsageError, match="no commit 'c99'"):
        bisect(tmp_path, lab, by_test, good="c99")
    shallow = tmp_path / "shallow"
    origin = f"file://{repo}"
    subprocess.run(["git", "clone", "-q", "--depth=3", origin, str(shallow)], check=True)
    with pytest.raises(UsageError, match="which is a shallow clone"):
        bisect(tmp_path, FakeLab(shallow), by_test, good="HEAD~5", bad="HEAD")


def test_a_failure_is_the_same_one_if_a_signal_or_the_words_are() -> None:
    splat = frozenset({"illegal-access"})
    assert look_of("a", splat).like(look_of("b", splat))
    assert not look_of("a", splat).like(look_of("a"))
    assert look_of("WARNING at /x/mm/a.c:12 0xff12").like(look_of("WARNING at /y/mm/a.c:99 0xab"))
    assert not look_of(BUG).like(look_of(CRASH))


def test_how_many_passes_it_takes() -> None:
    assert passes_needed(3, 3) == 1
    assert passes_needed(1, 2) == 7  # 1 - 0.5^7 > 0.99
    assert passes_needed(1, 100) == 30


GIVEN = {"spec": SPEC, "options": (), "repeats": 2, "guests": 2, "workload": "touch --bytes=1M"}


@pytest.mark.parametrize(
    ("ref", "code"), [("c1", 0), ("c7", 1), ("c8", 125), ("c5", 125), ("c9", 125)]
)
def test_a_step_answers_in_gits_exit_codes(repo: Path, tmp_path: Path, ref: str, code: int) -> None:
    def test(number: int) -> tuple[Status, str]:
        unusual = {8: (Status.ERROR, "nothing to check"), 9: (Status.MISS, "no QEMU")}
        return unusual.get(number) or broken_from(7)(number)

    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "-q", str(repo), str(clone)], check=True)
    run_git(clone, "checkout", "-q", ref)
    lab = FakeLab(clone, test, unbuildable=(5,))
    given = {**GIVEN, "above": None}
    found, reason = judge_step(("t.py",), clone, tmp_path / "steps", False, given, lab)
    assert found == code
    assert reason


def test_a_step_by_a_metric(repo: Path, tmp_path: Path) -> None:
    lab = FakeLab(repo, cost=lambda n: 2e9)
    what = ("cost.workload",)
    for above, code in ((1e9, 1), (3e9, 0)):
        given = {**GIVEN, "above": above}
        assert judge_step(what, repo, tmp_path / "steps", True, given, lab)[0] == code
    with pytest.raises(UsageError, match="--above"):
        judge_step(what, repo, tmp_path / "steps", True, {**GIVEN, "above": None}, lab)
