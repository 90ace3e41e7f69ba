# SPDX-License-Identifier: MIT
"""How often the counters are sampled."""

from __future__ import annotations

import pytest

from harness.base.spec import Clock
from harness.base.status import UsageError
from harness.collect.plan import MAX_HZ, Collect


def test_samples_are_none_of_what_is_counted_unless_asked_for() -> None:
    assert Collect().rate(Clock.WALL) == 100
    assert Collect().rate(Clock.ICOUNT) == 0
    for clock in Clock:
        assert Collect(hz=7).rate(clock) == 7
        assert Collect(hz=0).rate(clock) == 0


@pytest.mark.parametrize("hz", [-1, MAX_HZ + 1])
def test_rates_are_bounded(hz: int) -> None:
    with pytest.raises(UsageError, match="samples per second"):
        Collect(hz=hz)
