# SPDX-License-Identifier: MIT
"""`compare`, `baseline`, `bench` on recorded runs: what may be compared, what comes of it."""

import json
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.base import guest_options
from harness.base.emulation import CostModel, Emulation
from harness.base.options import NUMBER, TEXT, Compared, option
from harness.base.spec import Accel, Clock, GuestSpec
from harness.base.status import PreconditionError, Status, UsageError
from harness.base.units import GIB, PAGE_SIZE
from harness.cli import app as cli
from harness.compare.baselines import config_digest, load_all
from harness.compare.runs import check_comparable, compare_runs
from harness.record.comparison import Criteria, Verdict
from harness.record.rundir import RunDir, write_json
from harness.record.view import RunView
from harness.studies.ab import Design, side_by_side
from harness.studies.alarms import false_alarms, found
from tests.support.sample_runs import make_run

Captured = pytest.CaptureFixture[str]
Spoil = Callable[[RunDir], None]


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> int:
    monkeypatch.setattr(sys, "argv", ["cvm-harness", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        cli.main()
    return int(end.value.code or 0)


def elapsed(run: RunDir, nanoseconds: float) -> RunDir:
    report = json.loads((run.path / "workload.json").read_text())
    write_json(
        run.path / "workload.json",
        {**report, "elapsed_ns": int(nanoseconds), "cpu_ns": int(nanoseconds)},
    )
    return run


def arm(root: Path, centre: float, runs: int, seed: int, **fields: Any) -> list[RunView]:
    generator = np.random.default_rng(seed)
    times = centre * np.exp(generator.normal(0, 0.01, runs))
    made = [
        elapsed(make_run(root, day=day, accept_ns=t / 1000, **fields), t)
        for day, t in enumerate(times)
    ]
    return [RunView.load(run.path) for run in made]


def icount_run(root: Path, instructions: float, cost_ns: int = 1_300_000) -> RunView:
    run = elapsed(make_run(root, accept_ns=instructions / 1000), instructions)
    emulation = Emulation(cost=CostModel("custom", cost_ns, "test"))
    run.update(spec=GuestSpec(clock=Clock.ICOUNT, accel=Accel.TCG, emulation=emulation))
    return RunView.load(run.path)


def test_compare_says_regressed_with_exit_code_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    arm(tmp_path / "a", 2e9, 8, 1)
    arm(tmp_path / "b", 2.2e9, 8, 2, kernel="6.12.118-cvm-ffffffff")
    assert call(monkeypatch, "compare", tmp_path / "a", "--against", tmp_path / "b") == 1
    out = capsys.readouterr().out
    line = next(line for line in out.splitlines() if line.strip().startswith("workload.elapsed_ns"))
    assert "regressed" in line
    assert "+10." in line or "+9." in line
    arguments = ("compare", tmp_path / "a", "--against", tmp_path / "a", "--json")
    assert call(monkeypatch, *arguments) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["verdict"] == "equivalent"
    assert all(c["interval"]["low"] <= 1 <= c["interval"]["high"] for c in answer["comparisons"])


def test_two_runs_an_arm_are_inconclusive_with_exit_code_3(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    arm(tmp_path / "a", 2e9, 2, 1)
    arm(tmp_path / "b", 2.2e9, 2, 2)
    arguments = ("compare", str(tmp_path / "a"), "--against", str(tmp_path / "b"))
    assert call(monkeypatch, *arguments, "--metric", "workload.elapsed_ns") == 3
    assert "additional runs needed per arm" in capsys.readouterr().out
    assert call(monkeypatch, *arguments, "--margin", "7") == 2
    assert call(monkeypatch, *arguments, "--metric", "no.such") == 2
    assert call(monkeypatch, "compare", tmp_path / "a", "--against", tmp_path / "nowhere") == 2


def other_guest(run: RunDir) -> None:
    run.update(spec=GuestSpec(memory=8 * GIB, accel=Accel.TCG))


def other_host(run: RunDir) -> None:
    run.update(host={**run.record["host"], "cpu": "another processor"})


def other_qemu(run: RunDir) -> None:
    run.update(qemu={"binary": "/usr/bin/qemu", "version": "11.1.0"})


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (other_guest, "guest memory"),
        (other_host, "a processor against another"),
        (other_qemu, "QEMU"),
    ],
)
def test_what_means_something_else_is_not_compared(
    tmp_path: Path, spoil: Spoil, named: str
) -> None:
    a = arm(tmp_path / "a", 2e9, 2, 1)
    other = make_run(tmp_path / "b")
    spoil(other)
    b = [RunView.load(other.path)]
    with pytest.raises(UsageError, match=named):
        check_comparable(a, b, anyway=False)
    assert check_comparable(a, b, anyway=True)
    with pytest.raises(UsageError, match="not repetitions"):
        check_comparable([*a, *b], a, anyway=True)


@dataclass(frozen=True)
class Painted(GuestSpec):
    """A spec with two fields more than the project's."""

    gloss: int = option(3, NUMBER, "The guest shines as much.")
    colour: str = option(
        "red", TEXT, "The guest has this colour.", compared=Compared("paint", setting=True)
    )


def test_a_new_option_is_compared_by_being_a_field(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guest_options, "SPEC", Painted)

    def painted(**values: object) -> list[RunView]:
        run = make_run(tmp_path)
        run.update(spec={**run.record["spec"], **values})
        return [RunView.load(run.path)]

    before = painted()  # a run from before the guest had paint
    assert check_comparable(before, painted(gloss=3, colour="red"), anyway=False) == []
    assert check_comparable(before, painted(gloss=4), anyway=False) == ["gloss: 3 → 4"]
    with pytest.raises(UsageError, match=r"their paint differs \(red against blue\)"):
        check_comparable(before, painted(colour="blue"), anyway=False)
    with pytest.raises(UsageError, match="not repetitions: their gloss differs"):
        check_comparable([*before, *painted(gloss=4)], before, anyway=True)


def test_a_run_that_failed_is_no_sample(tmp_path: Path) -> None:
    a = arm(tmp_path, 2e9, 2, 1)
    failed = RunView.load(make_run(tmp_path, status=Status.FAIL, cause="a panic").path)
    with pytest.raises(UsageError, match="a panic"):
        check_comparable([*a, failed], a, anyway=True)
    with pytest.raises(PreconditionError, match=r"cost\.per_call"):
        compare_runs(a, a, ["cost.per_call"])


def test_half_a_percent_of_instructions_is_seen_in_one_pair_of_runs(tmp_path: Path) -> None:
    a, b = icount_run(tmp_path, 1e9), icount_run(tmp_path, 1.005e9, 1_306_500)
    by_name = {c.metric: c for c in compare_runs([a], [b], [])}
    assert by_name["cost.per_call"].verdict is Verdict.REGRESSED
    assert by_name["cost.per_touched_page"].verdict is Verdict.REGRESSED
    assert by_name["cost.per_touched_page"].effect == pytest.approx(0.005, rel=1e-3)
    assert a.workload is not None
    pages = a.workload["touched_bytes"] / PAGE_SIZE
    assert by_name["cost.per_touched_page"].ratio * 1e9 / pages == pytest.approx(1.005e9 / pages)
    same = {c.metric: c for c in compare_runs([a], [icount_run(tmp_path, 1e9 + 50_000)], [])}
    assert same["cost.per_call"].verdict is Verdict.EQUIVALENT
    # One boot may leave a block more to accept than another, 0.1 % of this workload: of one boot
    # an arm nobody can say that their costs are equal to 0.1 %.
    assert same["cost.workload"].verdict is Verdict.INCONCLUSIVE
    assert same["cost.workload"].relative_sd == pytest.approx(0.00103, rel=0.02)


def test_a_baseline_is_saved_found_and_refused_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    config = tmp_path / "config"
    config.write_text("# Linux 6.12.117\nCONFIG_SMP=y\nCONFIG_GCC_VERSION=120200\n")
    kernel = {"version": "6.12.117", "release": "6.12.117", "digest": "0a", "config": str(config)}
    runs = arm(tmp_path / "a", 2e9, 6, 1)
    for run in runs:
        RunDir.load(run.path).update(kernel=kernel)
    where = ("--baselines", tmp_path / "baselines")
    assert call(monkeypatch, "baseline", "compare", tmp_path / "a", *where) == 2
    assert "no baseline of this configuration" in capsys.readouterr().err

    assert call(monkeypatch, "baseline", "save", tmp_path / "a", *where) == 0
    ((path, saved),) = load_all(tmp_path / "baselines")
    first = path.read_text()
    assert saved.runs == tuple(run.id for run in runs)
    assert saved.configuration.kernel_config == config_digest("CONFIG_SMP=y\n")
    assert call(monkeypatch, "baseline", "save", tmp_path / "a", *where) == 0
    assert path.read_text() == first  # the same figures, the same file
    assert call(monkeypatch, "baseline", "compare", tmp_path / "a", *where) == 0
    capsys.readouterr()
    assert call(monkeypatch, "baseline", "list", *where) == 0
    assert path.name in capsys.readouterr().out

    for run in runs:
        other_qemu(RunDir.load(run.path))
    assert call(monkeypatch, "baseline", "compare", tmp_path / "a", *where) == 2
    assert "qemu 7.2.22 → 11.1.0" in capsys.readouterr().err
    assert call(monkeypatch, "baseline", "compare", tmp_path / "a", *where, "--anyway") == 0


def test_a_baseline_file_that_is_none_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    for text in ("", "{}", "[1]", '{"schema": 1, "configuration": {"target": 3}}', "9" * 5000):
        path.write_text(text)
        with pytest.raises(UsageError, match=re.escape(str(path))) as caught:
            load_all(tmp_path)
        assert "a baseline is" in caught.value.hint


def verdict_line(test: str, status: str, *signals: str, expected: Sequence[str] = ()) -> str:
    line = {"test": f"tests/{test}", "status": status, "signals": signals, "expected": expected}
    return json.dumps({**line, "cause": "", "setup_s": 1.0, "call_s": 0.5}) + "\n"


def test_verdicts_of_two_suites_are_compared_test_by_test(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    hardware, tcg, other = (tmp_path / name for name in ("hw.jsonl", "tcg.jsonl", "other.jsonl"))
    same = verdict_line("test_a.py::test_same", "FAIL", "waiting", "table")
    known = verdict_line("test_a.py::test_known[1]", "PASS", "waiting", expected=["C"])
    hardware.write_text(same + known + verdict_line("test_b.py::test_one", "PASS"))
    tcg.write_text(same + verdict_line("test_a.py::test_known[1]", "FAIL", "waiting"))
    other.write_text(verdict_line("test_c.py::test_other", "PASS"))

    assert call(monkeypatch, "compare", hardware, "--against", hardware) == Status.PASS.exit_code
    assert "3 tests in both, 0 differ" in capsys.readouterr().out
    arguments = ("compare", hardware, "--against", tcg, "--json")
    assert call(monkeypatch, *arguments) == Status.FAIL.exit_code
    assert json.loads(capsys.readouterr().out) == {
        "tests": 2,
        "differences": [
            {
                "test": "test_a.py::test_known[1]",
                "a": "PASS waiting, known defect C",
                "b": "FAIL waiting",
            },
            {"test": "test_b.py::test_one", "a": "PASS", "b": "not run"},
        ],
    }
    # Nothing to compare is no agreement.
    assert call(monkeypatch, "compare", hardware, "--against", other) == Status.ERROR.exit_code
    assert call(monkeypatch, "compare", hardware, "--against", tmp_path) == 2
    assert "is a file" in capsys.readouterr().err


def test_kernel_configs_differ_by_what_they_set_not_by_their_compiler() -> None:
    one = 'CONFIG_A=y\nCONFIG_CC_VERSION_TEXT="gcc 12"\n# CONFIG_B is not set\n'
    assert config_digest(one) == config_digest('# x\nCONFIG_CC_VERSION_TEXT="gcc 13"\nCONFIG_A=y\n')
    assert config_digest(one) != config_digest("CONFIG_A=m\n")


class FakeGuests:
    """Makes recorded runs instead of guests; B is slower by `effect`, the host drifts."""

    def __init__(self, root: Path, effect: float, rsd: float = 0.01) -> None:
        self.order: list[str] = []
        self._root, self._effect, self._rsd = root, effect, rsd
        self._generator = np.random.default_rng(4)
        self._drift = 1.0

    def __call__(self, name: str, number: int) -> RunView:
        self.order.append(name)
        self._drift *= 1.02
        noise = float(np.exp(self._generator.normal(0, self._rsd)))
        took = 2e9 * self._drift * noise * (1 + self._effect if name == "B" else 1)
        run = elapsed(make_run(self._root, day=len(self.order)), took)
        return RunView.load(run.path)


def keep(criteria: Criteria) -> Criteria:
    return criteria


def test_arms_alternate_at_random_and_a_clear_answer_ends_the_series(tmp_path: Path) -> None:
    guests = FakeGuests(tmp_path, effect=0.30)
    said: list[str] = []
    design = Design(24, looks=4, metrics=("workload.elapsed_ns",))
    series = side_by_side(design, guests, keep, said.append)
    assert series.found[0].verdict is Verdict.REGRESSED
    assert series.stopped_early
    assert len(series.a) == len(series.b) < 24
    blocks = [guests.order[i : i + 2] for i in range(0, len(guests.order), 2)]
    assert all(sorted(block) == ["A", "B"] for block in blocks)
    assert {tuple(block) for block in blocks} == {("A", "B"), ("B", "A")}
    assert list(Design(24, seed=1).order()) == list(Design(24, seed=1).order())
    assert list(Design(24, seed=1).order()) != list(Design(24, seed=2).order())


def test_equal_arms_run_to_the_end_or_to_equivalence(tmp_path: Path) -> None:
    series = side_by_side(
        Design(6, looks=2, metrics=("workload.elapsed_ns",)),
        FakeGuests(tmp_path, effect=0.0, rsd=0.05),
        keep,
        lambda _: None,
    )
    assert series.found[0].verdict in (Verdict.INCONCLUSIVE, Verdict.EQUIVALENT)
    with pytest.raises(UsageError):
        side_by_side(Design(1), FakeGuests(tmp_path, 0.0), keep, lambda _: None)


def test_alarm_rates_on_recorded_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    values = list(np.exp(np.random.default_rng(6).normal(20, 0.02, 24)))
    quiet = false_alarms(values, 7, 40, Criteria())
    assert quiet.count <= 6
    assert found(values, 0.10, 40, Criteria(), runs=7).count >= 36
    with pytest.raises(PreconditionError):
        false_alarms(values[:5], 7, 10, Criteria())
    arm(tmp_path, 2e9, 14, 3)
    assert call(monkeypatch, "bench", "alarms", tmp_path, "--comparisons", "10") in (0, 1)
    assert "A against A: alarms" in capsys.readouterr().out
