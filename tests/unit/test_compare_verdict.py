# SPDX-License-Identifier: MIT
"""Comparisons: verdicts that hold their error rates, and say what they could have seen."""

import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from harness.base.status import PreconditionError, UsageError
from harness.compare.power import look_sizes, runs_needed, spending
from harness.compare.statistics import Arms
from harness.compare.verdict import compare, control_false_discoveries, worst_verdict
from harness.record.comparison import Criteria, Errors, Resampling, Statistic, Verdict
from harness.record.rundir import plain

# The only published study of lazy acceptance's run-time cost: seconds, kernel build, before and
# after (cover letter of the unaccepted-memory patch set, version 9).
V9_BEFORE = (1803.21, 1785.87, 1883.59)
V9_AFTER = (1876.02, 1758.50, 1876.13)


def noisy(
    generator: np.random.Generator, runs: int, centre: float = 100.0, rsd: float = 0.03
) -> npt.NDArray[np.float64]:
    return centre * np.exp(generator.normal(0, rsd, runs))


def test_the_v9_study_is_inconclusive_and_says_what_it_would_take() -> None:
    result = compare("kernel build", Arms.of(V9_BEFORE, V9_AFTER))
    assert result.verdict is Verdict.INCONCLUSIVE
    assert result.effect == pytest.approx(0.007, abs=0.0005)
    assert result.minimum_detectable_effect == pytest.approx(0.10, abs=0.002)
    assert result.plan == {0.05: 7, 0.02: 44, 0.01: 173}
    assert result.interval is not None
    assert result.interval.low < 0.95
    assert result.interval.high > 1.05


def test_three_against_three_can_never_alarm_and_one_run_says_so() -> None:
    far = compare("t", Arms.of([1.0, 1.01, 1.02], [2.0, 2.01, 2.02]))
    assert far.verdict is Verdict.INCONCLUSIVE  # exact permutation test: p is 0.1 at best
    assert far.p_value == pytest.approx(0.1)
    one = compare("t", Arms.of([1.0], [2.0]))
    assert one.verdict is Verdict.INCONCLUSIVE
    assert one.interval is None
    assert one.minimum_detectable_effect is None
    assert one.plan == {}


@pytest.mark.parametrize(
    ("factor", "higher_is_better", "verdict"),
    [
        (1.10, False, Verdict.REGRESSED),
        (0.90, False, Verdict.IMPROVED),
        (1.10, True, Verdict.IMPROVED),
        (0.90, True, Verdict.REGRESSED),
        (1.00, False, Verdict.EQUIVALENT),
    ],
)
@pytest.mark.parametrize("statistic", list(Statistic))
def test_verdicts(
    factor: float, higher_is_better: bool, verdict: Verdict, statistic: Statistic
) -> None:
    generator = np.random.default_rng(7)
    a, b = noisy(generator, 40, rsd=0.01), noisy(generator, 40, 100 * factor, rsd=0.01)
    criteria = Criteria(higher_is_better=higher_is_better, statistic=statistic)
    assert compare("x", Arms.of(a, b), criteria).verdict is verdict


def test_a_difference_too_small_to_matter_is_equivalent_not_regressed() -> None:
    generator = np.random.default_rng(3)
    a, b = noisy(generator, 30, rsd=0.001), noisy(generator, 30, 100.5, rsd=0.001)
    result = compare("x", Arms.of(a, b), Criteria(margin=0.02))
    assert result.p_value < 0.01
    assert result.verdict is Verdict.EQUIVALENT
    assert compare("x", Arms.of(a, b), Criteria(margin=0.002)).verdict is Verdict.REGRESSED


@pytest.mark.parametrize("runs", [4, 12])
@pytest.mark.parametrize("tailed", [False, True])
def test_false_alarms_keep_to_the_stated_rate(runs: int, tailed: bool) -> None:
    generator = np.random.default_rng(runs)
    comparisons, alarms, wrongly_equivalent = 40, 0, 0
    for number in range(comparisons):
        a, b, shifted = (noisy(generator, runs) for _ in range(3))
        if tailed:  # one run in ten is disturbed by something else
            for arm in (a, b, shifted):
                arm *= np.where(generator.random(runs) < 0.1, 1.3, 1.0)
        criteria = Criteria(drawing=Resampling(999, number), margin=0.02)
        result = compare("x", Arms.of(a, b), criteria)
        alarms += result.verdict in (Verdict.REGRESSED, Verdict.IMPROVED)
        edge = compare("x", Arms.of(a, shifted * 1.02), criteria)
        wrongly_equivalent += edge.verdict is Verdict.EQUIVALENT
    for count in (alarms, wrongly_equivalent):
        # A rate of 5 % would show this many or more once in a thousand such tests.
        assert stats.binomtest(count, comparisons, 0.05, "greater").pvalue > 0.001


def test_a_five_percent_slow_down_is_found_in_the_planned_runs() -> None:
    generator = np.random.default_rng(11)
    needed = runs_needed(0.033, 0.05, Errors(power=0.8))
    found = 0
    for number in range(60):
        a, b = (noisy(generator, needed + 1, c, 0.033) for c in (100, 105))
        result = compare(
            "x", Arms.of(a, b), Criteria(drawing=Resampling(999, number), margin=0.001)
        )
        found += result.verdict is Verdict.REGRESSED
    assert stats.binomtest(found, 60, 0.8, "less").pvalue > 0.001


def test_pairs_see_through_a_drift_that_both_arms_share() -> None:
    generator = np.random.default_rng(5)
    drift = np.exp(np.cumsum(generator.normal(0, 0.1, 12)))
    a, b = noisy(generator, 12, rsd=0.01) * drift, noisy(generator, 12, 105, 0.01) * drift
    assert compare("x", Arms.of(a, b, paired=True)).verdict is Verdict.REGRESSED
    assert compare("x", Arms.of(a, b)).verdict is Verdict.INCONCLUSIVE


def test_known_noise_decides_with_one_pair_of_runs() -> None:
    exact = Criteria(known_rsd=1e-4, margin=0.002)
    half_a_percent = compare("cost", Arms.of([270_451.0], [270_451.0 * 1.005]), exact)
    assert half_a_percent.verdict is Verdict.REGRESSED
    assert half_a_percent.minimum_detectable_effect == pytest.approx(4e-4, rel=0.02)
    assert compare("cost", Arms.of([270_451.0], [270_458.0]), exact).verdict is Verdict.EQUIVALENT


def test_noise_that_the_runs_show_counts_for_more_than_what_was_known() -> None:
    """One boot leaves a block more to accept: 0.2 %, although a run repeats to 0.02 %."""
    exact = Criteria(known_rsd=2e-4, margin=0.001)
    boots = [1_312.53, 1_309.94, 1_312.56], [1_309.94, 1_305.27, 1_309.94]
    found = compare("cost", Arms.of(*boots), exact)
    assert found.verdict is Verdict.INCONCLUSIVE
    assert found.relative_sd == pytest.approx(0.0017, rel=0.2)
    assert found.minimum_detectable_effect is not None
    assert found.minimum_detectable_effect > 0.004
    dearer = compare("cost", Arms.of(boots[0], [value * 1.02 for value in boots[1]]), exact)
    assert dearer.verdict is Verdict.REGRESSED  # a permutation test of 3 against 3 could not say so


def test_the_rate_of_false_alarms_holds_where_boots_come_in_steps() -> None:
    generator = np.random.default_rng(7)
    exact = Criteria(known_rsd=2e-4, margin=0.001)
    verdicts = []
    for _ in range(300):
        a, b = (1000 + 2 * generator.integers(0, 3, 4) + generator.normal(0, 0.02, 4) for _ in "ab")
        verdicts.append(compare("cost", Arms.of(a, b), exact).verdict)
    alarms = sum(v in (Verdict.REGRESSED, Verdict.IMPROVED) for v in verdicts)
    assert stats.binomtest(alarms, 300, 0.05, "greater").pvalue > 0.001


def test_a_matrix_of_nothing_raises_no_alarm() -> None:
    generator = np.random.default_rng(1)
    quick = Criteria(margin=0.001, drawing=Resampling(999))
    matrix = [
        compare(str(n), Arms.of(noisy(generator, 8), noisy(generator, 8)), quick) for n in range(40)
    ]
    real = compare("real", Arms.of(noisy(generator, 8), noisy(generator, 8, 130)))
    controlled = control_false_discoveries([*matrix, real])
    assert controlled[-1].verdict is Verdict.REGRESSED
    assert sum(c.verdict is Verdict.REGRESSED for c in controlled) <= 2
    assert all(c.q_value is not None and c.q_value >= c.p_value for c in controlled)
    assert worst_verdict(controlled) is Verdict.REGRESSED
    assert worst_verdict([]) is Verdict.INCONCLUSIVE


values = st.lists(st.floats(1.0, 1e9), min_size=2, max_size=4)


@settings(max_examples=10)  # each takes six bootstraps
@given(values, values, st.floats(1e-3, 1e3))
def test_units_do_not_matter_and_the_arms_can_change_places(
    a: list[float], b: list[float], scale: float
) -> None:
    result = compare("x", Arms.of(a, b))
    scaled = compare("x", Arms.of([v * scale for v in a], [v * scale for v in b]))
    swapped = compare("x", Arms.of(b, a))
    assert scaled.ratio == pytest.approx(result.ratio, rel=1e-6)
    assert swapped.ratio == pytest.approx(1 / result.ratio, rel=1e-6)
    assert swapped.p_value == pytest.approx(result.p_value)
    assert result.interval is not None
    # The interval holds the point it is for, up to the arithmetic of logarithms.
    assert result.interval.low <= result.ratio * (1 + 1e-9)
    assert result.interval.high >= result.ratio * (1 - 1e-9)


def test_the_same_runs_give_the_same_answer() -> None:
    generator = np.random.default_rng(2)
    arms = Arms.of(noisy(generator, 15), noisy(generator, 15))
    assert plain(compare("x", arms)) == plain(compare("x", arms))


@pytest.mark.parametrize("bad", [[], [1.0, 0.0], [1.0, -2.0], [math.nan, 1.0], [math.inf, 1.0]])
def test_what_cannot_be_compared_is_an_error_never_a_verdict(bad: list[float]) -> None:
    with pytest.raises(PreconditionError):
        Arms.of([1.0, 2.0], bad)


@given(st.integers(1, 50), st.floats(0.001, 0.2))
def test_looks_together_spend_exactly_the_level(looks: int, alpha: float) -> None:
    levels = spending(looks, alpha)
    assert len(levels) == looks
    assert all(level >= 0 for level in levels)
    assert sum(levels) == pytest.approx(alpha)


def test_looks_end_at_the_planned_runs() -> None:
    assert look_sizes(44, 4) == [11, 22, 33, 44]
    assert look_sizes(3, 10)[-1] == 3
    with pytest.raises(UsageError):
        spending(0, 0.05)


@pytest.mark.parametrize("wrong", [{"margin": 0.0}, {"margin": 1.5}, {"known_rsd": 0.0}])
def test_criteria_that_make_no_sense_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        Criteria(**wrong)  # type: ignore[arg-type]
    with pytest.raises(UsageError):
        runs_needed(0.01, 0, Errors())
