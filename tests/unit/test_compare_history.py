# SPDX-License-Identifier: MIT
"""Changes of level are found where they are, and not where there are none."""

import numpy as np
import pytest

from harness.compare.history import change_points


def test_a_step_is_found_at_its_place() -> None:
    noise = np.random.default_rng(1).normal(0, 1, 60)
    (change,) = change_points(list(100 + noise + np.repeat([0, 5], 30)))
    assert change.index in range(29, 32)
    assert change.before == pytest.approx(100, abs=1)
    assert change.relative == pytest.approx(0.05, abs=0.01)
    assert change.p_value < 1e-6


def test_several_steps() -> None:
    noise = np.random.default_rng(2).normal(0, 1, 90)
    changes = change_points(list(100 + noise + np.repeat([0, 6, -6], 30)))
    assert [round(change.index / 10) for change in changes] == [3, 6]


def test_exact_figures_change_by_any_amount() -> None:
    """Instruction counts have no noise: the smallest lasting change is one."""
    (change,) = change_points([270_451.0] * 5 + [270_452.0] * 3)
    assert change.index == 5
    assert change_points([270_451.0] * 8) == ()


def test_an_outlier_is_no_change() -> None:
    values = list(100 + np.random.default_rng(3).normal(0, 1, 40))
    values[20] = 1e9
    assert change_points(values) == ()


def test_noise_alone_rarely_changes_level() -> None:
    random = np.random.default_rng(4)
    alarms = sum(bool(change_points(list(random.normal(100, 3, 50)))) for _ in range(200))
    assert alarms <= 10


@pytest.mark.parametrize("count", range(6))
def test_too_few_runs_show_nothing(count: int) -> None:
    assert change_points([1.0, 1, 1, 9, 9, 9][:count]) == ()


def test_three_against_three_can_be_a_change_if_they_do_not_overlap() -> None:
    assert len(change_points([1.00, 1.01, 1.02, 9.00, 9.01, 9.02])) == 1
