# SPDX-License-Identifier: MIT
"""The night as a state machine, over a lab that does nothing but answer."""

import json
import re
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from msgspec.structs import replace

from harness.base.status import HostError, Status
from harness.base.units import GIB
from harness.jobs.lab import BuildJob, BuiltKernel, Lab, SampleJob, SuiteJob, judge_suite
from harness.jobs.nightly.night import Night
from harness.jobs.nightly.plan import cells
from harness.jobs.nightly.plan_file import parse_plan
from harness.jobs.nightly.rollup import roll_up
from harness.jobs.nightly.suite import judge_attempts, to_repeat, workers
from harness.kernel.kernel import BuildRecord
from harness.kernel.make import KernelBuildError
from harness.record.attempts import CaseVerdict, Sample, SuiteResult
from harness.record.journal import Journal
from harness.record.night import CellKind, NightResults
from harness.report.summaries import write_summary
from harness.targets.choose import guest_spec
from tests.support.numbered_lab import numbered_repository

PLAN = """
[[kernel]]
name = "base"
source = "debian:6.12"
[[kernel]]
name = "patched"
source = "debian:7.3"
base = "base"
[matrix]
memory = ["1G", "2G"]
[[suite]]
name = "quick"
tests = ["tests/guest"]
repeats = 2
[[workload]]
name = "touch"
repetitions = 3
guest = { clock = "icount" }
[limits]
free_disk = "1M"
"""


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """What fsync is for is not what is tested here, and a busy disk takes seconds for each."""
    monkeypatch.setattr("os.fsync", lambda fd: None)


def verdict(test: str, status: Status, cause: str = "") -> CaseVerdict:
    return CaseVerdict(test, status, frozenset(), cause, 1.0)


def suite(*tests: CaseVerdict) -> SuiteResult:
    status, cause = judge_suite(0, "", tests, ())
    return SuiteResult(status, cause, tests, "pytest", 1.0)


GOOD = suite(verdict("t::a", Status.PASS), verdict("t::b", Status.PASS))


class Killed(BaseException):
    """SIGKILL, as far as a test in the same process can have it."""


@dataclass
class FakeLab(Lab):
    """Answers; remembers what it was asked; dies before the call number `dies_at`."""

    slower: float = 1.0
    """How much dearer the kernel 7.3 is."""
    suite_answer: Callable[[SuiteJob], SuiteResult] = lambda job: GOOD
    build_error: dict[str, Exception] = field(default_factory=dict)
    sample_answer: Callable[[SampleJob, Sample], Sample] = lambda job, sample: sample
    dies_at: int | None = None
    asked: list[tuple[str, ...]] = field(default_factory=list)

    def _ask(self, *what: str) -> None:
        if self.dies_at is not None and len(self.asked) == self.dies_at:
            raise Killed
        self.asked.append(what)

    def build(self, job: BuildJob, directory: Path, deadline_s: float) -> BuiltKernel:
        self._ask("build", job.source)
        (directory / "half").write_text("x")
        if job.source in self.build_error:
            raise self.build_error[job.source]
        image = directory / "boot" / f"vmlinuz-{job.source[-4:].strip(':')}"
        image.parent.mkdir()
        image.write_text("kernel")
        return BuiltKernel(image, "release", "6.12.1", BuildRecord())

    def compile(self, job: BuildJob, files: Sequence[str]) -> dict[str, list[str]]:
        raise NotImplementedError

    def suite(self, job: SuiteJob, directory: Path, deadline_s: float) -> SuiteResult:
        self._ask("suite", job.kernel.name, str(job.spec.memory), *job.tests)
        (directory / "runs").mkdir()
        return self.suite_answer(job)

    def sample(self, job: SampleJob, directory: Path, deadline_s: float) -> Sample:
        self._ask("sample", job.kernel.name, str(job.spec.memory))
        elapsed = 1e9 * (self.slower if "7.3" in job.kernel.name else 1.0)
        number = sum(asked == self.asked[-1] for asked in self.asked)
        run_dir = directory / "runs" / "one"
        metrics = {"cost.workload": elapsed * (1 + number * 1e-6)}
        return self.sample_answer(job, Sample(Status.PASS, "", metrics, run_dir, "run", 2.0))


def night(
    directory: Path, lab: FakeLab, text: str = PLAN, clock: Callable[[], float] | None = None
) -> NightResults:
    plan = parse_plan(text)
    found = cells(plan)
    with Journal(directory / "journal.jsonl") as journal:
        journal.append("session")
        running = Night(plan, found, directory, journal, lab)
        if clock:
            running = Night(plan, found, directory, journal, lab, clock=clock)
        running.run()
        return roll_up(plan.name, found, journal.events)


def verdicts(results: NightResults) -> list[tuple[str, Status, str]]:
    return [(cell.key, cell.status, cell.cause) for cell in results.cells]


def test_a_good_night(tmp_path: Path) -> None:
    lab = FakeLab()
    results = night(tmp_path, lab)

    assert results.finished
    assert results.status is Status.PASS
    assert results.counts == {"PASS": 2 + 4 + 2}
    kinds = [asked[0] for asked in lab.asked]
    assert kinds.count("build") == 2
    assert kinds.count("suite") == 4
    assert kinds.count("sample") == 2 * 2 * 3
    # A and B alternate: in each pair both kernels, one after the other.
    samples = [asked for asked in lab.asked if asked[0] == "sample"]
    pairs = [samples[i : i + 2] for i in range(0, len(samples), 2)]
    assert all(len({kernel for _, kernel, _ in pair}) == 2 for pair in pairs)
    assert len({pair[0][1] for pair in pairs}) == 2, "the order in a pair is random"
    write_summary(tmp_path / "summary.txt", results, tmp_path)
    assert (tmp_path / "summary.txt").read_text().startswith("PASS night plan: 8 PASS")


def test_what_got_dearer_is_a_fail_with_the_effect(tmp_path: Path) -> None:
    results = night(tmp_path, FakeLab(slower=1.03))
    measured = [cell for cell in results.cells if cell.kind is CellKind.MEASURE]
    assert {cell.status for cell in measured} == {Status.FAIL}
    assert "cost.workload regressed: +3.00%" in measured[0].cause
    assert results.status is Status.FAIL
    assert measured[0].values["cost.workload"].keys() == {"base", "patched"}
    assert night(tmp_path, FakeLab(dies_at=0)).counts == results.counts, "nothing is run again"


@pytest.mark.parametrize("dies_at", [0, 1, 2, 4, 5, 6, 7, 10, 17])
def test_a_killed_night_goes_on_without_doing_anything_twice(tmp_path: Path, dies_at: int) -> None:
    whole = FakeLab(slower=1.03)
    (tmp_path / "whole").mkdir()
    uninterrupted = night(tmp_path / "whole", whole)
    assert len(whole.asked) == 18
    killed = tmp_path / "killed"
    killed.mkdir()

    first = FakeLab(slower=1.03, dies_at=dies_at)
    with pytest.raises(Killed):
        night(killed, first)
    second = FakeLab(slower=1.03)
    second.asked = []
    resumed = night(killed, second)

    assert first.asked + second.asked == whole.asked
    assert [v[:2] for v in verdicts(resumed)] == [v[:2] for v in verdicts(uninterrupted)]
    assert resumed.interruptions == 1
    # What the kill cut short has left nothing behind.
    places = {place for cell in resumed.cells for place in cell.places}
    on_disk = {str(p.relative_to(killed)) for p in killed.glob("cells/*/*")}
    assert on_disk == places
    assert not (killed / "journal.jsonl.ballast").exists()


def test_a_kernel_that_does_not_build_costs_its_own_cells_only(tmp_path: Path) -> None:
    error = KernelBuildError("the kernel does not build: mm/x.c:1:1: error: no")
    lab = FakeLab(build_error={"debian:7.3": error})
    results = night(tmp_path, lab)
    by_kernel = {(c.kernel, c.kind): (c.status, c.cause) for c in results.cells}
    assert by_kernel["patched", CellKind.BUILD] == (Status.ERROR, error.cause)
    assert by_kernel["patched", CellKind.SUITE] == (Status.SKIP, "kernel patched was not built")
    assert by_kernel["patched", CellKind.MEASURE][0] is Status.SKIP
    assert by_kernel["base", CellKind.SUITE][0] is Status.PASS
    assert results.status is Status.ERROR


@pytest.mark.parametrize("error", [RuntimeError("bug"), OSError(28, "No space left on device")])
def test_a_fault_of_our_own_in_one_cell_is_its_miss(tmp_path: Path, error: Exception) -> None:
    results = night(tmp_path, FakeLab(build_error={"debian:7.3": error}))
    build = next(c for c in results.cells if c.kernel == "patched" and c.kind is CellKind.BUILD)
    assert build.status is Status.MISS
    assert results.finished


def test_a_full_disk_stops_cells_and_not_the_night(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = {"bytes": 10 * GIB}

    def usage(path: Path) -> object:
        return type("Usage", (), {"free": free["bytes"]})

    monkeypatch.setattr("shutil.disk_usage", usage)

    def fill(job: SuiteJob) -> SuiteResult:
        free["bytes"] = 100
        return GOOD

    results = night(tmp_path, FakeLab(suite_answer=fill))
    assert results.finished
    statuses = [cell.status for cell in results.cells]
    assert statuses[:3] == [Status.PASS] * 3
    assert set(statuses[3:]) == {Status.MISS}
    assert "the disk is full: 100 B free" in results.cells[3].cause


def test_passed_cells_give_up_their_bulk_before_a_cell_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def size(path: Path) -> int:
        return 100 * GIB if list(path.glob("cells/*/*/runs")) else 0

    monkeypatch.setattr("harness.jobs.nightly.night.tree_size", size)
    results = night(tmp_path, FakeLab())
    assert results.status is Status.PASS


def test_the_nights_time_ends_it_and_a_resumed_one_goes_on(tmp_path: Path) -> None:
    now = iter(range(0, 100_000, 100))
    text = PLAN + 'time = "1500s"\n'
    results = night(tmp_path, FakeLab(), text, clock=lambda: next(now))
    assert not results.finished
    assert results.status is Status.MISS
    assert "cells were not run" in results.cause
    assert any(cell.cause == "not run yet" for cell in results.cells)
    assert night(tmp_path, FakeLab(), text, clock=lambda: 0.0).status is Status.PASS


def test_a_flaky_fail_stays_a_fail_and_a_flaky_miss_does_not() -> None:
    def attempt(status: Status) -> SuiteResult:
        return suite(verdict("t::a", status, "why"), verdict("t::b", Status.PASS))

    for status, counts_as in (
        (Status.FAIL, Status.FAIL),
        (Status.ERROR, Status.PASS),
        (Status.MISS, Status.PASS),
    ):
        first = attempt(status)
        assert to_repeat([first]) == ("t::a",)
        again = suite(verdict("t::a", Status.PASS))
        assert to_repeat([first, again]) is None
        found = judge_attempts([first, again])
        assert found.status is counts_as
        assert found.flakes[0].statuses == (status, Status.PASS)
    hard = judge_attempts([attempt(Status.ERROR), suite(verdict("t::a", Status.ERROR))])
    assert hard.status is Status.ERROR
    assert not hard.flakes


def test_failing_tests_are_repeated_as_often_as_the_suite_says(tmp_path: Path) -> None:
    lab = FakeLab(suite_answer=lambda job: suite(verdict("t::a", Status.FAIL, "broken")))
    results = night(tmp_path, lab)
    cell = next(cell for cell in results.cells if cell.kind is CellKind.SUITE)
    assert cell.status is Status.FAIL
    assert cell.failed == ("t::a: FAIL: broken",)
    first = [asked for asked in lab.asked if asked[0] == "suite"][:3]
    assert [asked[3:] for asked in first] == [("tests/guest",), ("t::a",), ("t::a",)]


def test_a_pytest_that_broke_off_cannot_pass() -> None:
    broken = replace(GOOD, complete=False, status=Status.MISS, cause="killed")
    found = judge_attempts([broken])
    assert found.status is Status.MISS
    assert found.failed == ("not all tests ran: killed",)


def test_a_run_of_pytest_is_judged_by_what_it_says() -> None:
    failing = [verdict("t::a", Status.FAIL, "splat"), verdict("t::b", Status.PASS)]
    assert judge_suite(1, "", failing, ()) == (Status.FAIL, "t::a: FAIL: splat")
    assert judge_suite(5, "", (), ())[0] is Status.ERROR
    assert judge_suite(0, "", (), ())[0] is Status.ERROR
    assert judge_suite(69, "", (), ("MISS: no QEMU",)) == (Status.MISS, "MISS: no QEMU")
    assert judge_suite(4, "", (), ("bad option",))[0] is Status.MISS
    assert judge_suite(None, "too slow", (), ()) == (Status.MISS, "too slow")
    assert judge_suite(None, "too slow", failing, ())[0] is Status.FAIL
    assert judge_suite(0, "", [verdict("t::a", Status.SKIP)], ())[0] is Status.SKIP


def test_a_spoiled_measurement_is_tried_again_and_a_failing_kernel_is_not(tmp_path: Path) -> None:
    spoiled: list[SampleJob] = []

    def once(job: SampleJob, sample: Sample) -> Sample:
        if not spoiled:
            spoiled.append(job)
            return replace(sample, status=Status.MISS, cause="QEMU was killed", metrics={})
        if "7.3" in job.kernel.name and job.spec.memory == 2 * GIB:
            return replace(sample, status=Status.FAIL, cause="panic", metrics={})
        return sample

    results = night(tmp_path, FakeLab(sample_answer=once))
    measured = {c.guest["memory"]: c for c in results.cells if c.kind is CellKind.MEASURE}
    assert measured["1G"].status is Status.PASS
    assert measured["2G"].status is Status.FAIL
    assert measured["2G"].cause == "patched: panic"


def test_a_metric_that_runs_do_not_have_is_an_error(tmp_path: Path) -> None:
    results = night(
        tmp_path, FakeLab(), PLAN.replace("repetitions", 'metrics = ["accept.calls"]\nrepetitions')
    )
    measured = [cell for cell in results.cells if cell.kind is CellKind.MEASURE]
    assert {cell.status for cell in measured} == {Status.ERROR}
    assert "accept.calls is not among the figures" in measured[0].cause


def test_as_many_guests_at_once_as_memory_and_cores_allow() -> None:
    spec = guest_spec(memory="2G")
    assert workers(spec, memory=8 * GIB, cores=8) <= 3
    assert workers(spec, memory=GIB, cores=8) == 1
    assert workers(guest_spec(memory="256M"), memory=8 * GIB, cores=2) == 2


def test_results_are_json(tmp_path: Path) -> None:
    from harness.record.rundir import plain

    results = night(tmp_path, FakeLab(slower=1.03))
    found = json.loads(json.dumps(plain(results)))
    assert found["schema"] == 1
    assert found["cells"][-1]["comparisons"][0]["verdict"] == "regressed"


def test_a_host_error_of_the_lab_is_a_miss(tmp_path: Path) -> None:
    error = HostError("no compiler")
    results = night(tmp_path, FakeLab(build_error={"debian:6.12": error}))
    assert results.cells[0].status is Status.MISS


def test_a_source_or_series_that_is_none_costs_its_own_cells_only(tmp_path: Path) -> None:
    tree = numbered_repository(tmp_path / "tree", 3)
    shallow = tmp_path / "shallow"
    origin = f"file://{tree}"
    subprocess.run(["git", "clone", "-q", "--depth=1", origin, str(shallow)], check=True)
    (tree / "mm/number.c").write_text("changed, and not committed")
    (tmp_path / "empty.mbox").touch()
    bad = {
        "dirty": (str(tree), "", "1 changed files that are not committed"),
        "shallow": (f"git:{shallow}@HEAD~2", "", "no commit 'HEAD~2' in .*, which is a shallow"),
        "empty": ("debian:6.12", str(tmp_path / "empty.mbox"), "is empty: it has no patch"),
        "range": ("debian:6.12", f"git:{tree}@c3..c3", "is empty: it has no patch"),
        "absent": ("debian:6.12", str(tmp_path / "absent"), "there is no patch"),
    }
    text = PLAN
    for name, (source, patch, _) in bad.items():
        patches = f"patches = ['{patch}']" if patch else ""
        text = f"[[kernel]]\nname = '{name}'\nsource = '{source}'\n{patches}\n" + text
    lab = FakeLab()
    results = night(tmp_path, lab, text)
    builds = {cell.kernel: cell for cell in results.cells if cell.kind is CellKind.BUILD}
    for name, (_, _, why) in bad.items():
        assert builds[name].status is Status.ERROR
        assert re.search(why, builds[name].cause), builds[name].cause
    assert builds["base"].status is builds["patched"].status is Status.PASS
    good = [c for c in results.cells if c.kernel == "patched" and c.kind is not CellKind.BUILD]
    assert {cell.status for cell in good} == {Status.PASS}
    assert results.finished
    assert results.status is Status.ERROR
    assert [asked[1] for asked in lab.asked if asked[0] == "build"] == ["debian:6.12", "debian:7.3"]


def test_a_dirty_tree_may_be_asked_for_and_a_ref_is_pinned_to_its_commit(tmp_path: Path) -> None:
    tree = numbered_repository(tmp_path / "tree", 1)
    (tree / "mm/number.c").write_text("changed")
    text = PLAN.replace('source = "debian:6.12"', f"source = '{tree}'\ndirty = true")
    text = text.replace('source = "debian:7.3"', f"source = 'git:{tree}@main'")
    lab = FakeLab()
    night(tmp_path, lab, text)
    built = [asked[1] for asked in lab.asked if asked[0] == "build"]
    assert built[0] == str(tree)
    assert re.fullmatch(rf"git:{tree}@[0-9a-f]{{40}}", built[1])
