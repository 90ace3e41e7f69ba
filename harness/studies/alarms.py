# SPDX-License-Identifier: MIT
"""False-alarm rate and power of comparisons: recorded runs of one configuration are split at random
into two arms again and again, equal ones or one made slower by a known factor."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy

from harness.base.status import PreconditionError
from harness.compare.power import runs_needed
from harness.compare.statistics import Arms, relative_sd
from harness.compare.verdict import compare
from harness.record.comparison import Criteria, Verdict

_ALARMS = (Verdict.REGRESSED, Verdict.IMPROVED)


@dataclass(frozen=True)
class Rate:
    name: str
    runs_an_arm: int
    count: int
    comparisons: int
    promised: str
    """What it should be."""

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the rate (Clopper and Pearson), as if the comparisons did not share
        runs: too narrow where the runs are few."""
        found = scipy.stats.binomtest(self.count, self.comparisons).proportion_ci(0.95)
        return float(found.low), float(found.high)


def false_alarms(
    values: Sequence[float], runs: int, comparisons: int, criteria: Criteria, seed: int = 0
) -> Rate:
    """Alarms among `comparisons` of `runs` against `runs` of the same recorded `values`. Raises
    PreconditionError where there are too few values for two arms."""
    count = sum(
        compare("", arms, criteria).verdict in _ALARMS
        for arms in _splits(values, runs, comparisons, seed)
    )
    rate = criteria.errors.alpha
    return Rate("A against A: alarms", runs, count, comparisons, f"at most {rate:.0%}")


def found(
    values: Sequence[float],
    effect: float,
    comparisons: int,
    criteria: Criteria,
    runs: int | None = None,
    seed: int = 0,
) -> Rate:
    """How often a slow-down by `effect`, put into one arm of the recorded runs, is found. With as
    many runs an arm as planned from the values' own spread, unless `runs` says otherwise."""
    spread = relative_sd(Arms.of(values, values))
    assert spread is not None  # the splits below have refused fewer than four values
    planned = runs_needed(spread, effect, criteria.errors)
    needed = runs or planned
    count = sum(
        compare("", Arms(arms.a, arms.b * (1 + effect)), criteria).verdict is Verdict.REGRESSED
        for arms in _splits(values, needed, comparisons, seed)
    )
    power = criteria.errors.power
    name = f"B slower by {effect:.0%}: found"
    promised = f"{power:.0%} from {planned:,} runs an arm on"
    return Rate(name, needed, count, comparisons, promised)


def _splits(values: Sequence[float], runs: int, comparisons: int, seed: int) -> list[Arms]:
    if runs < 2 or len(values) < 2 * runs:
        raise PreconditionError(
            f"{len(values)} runs cannot be split into two arms of {runs}",
            hint="record more runs of the same configuration",
        )
    generator = np.random.default_rng(seed)
    splits = []
    for _ in range(comparisons):
        order = generator.permutation(np.asarray(values, np.float64))
        splits.append(Arms.of(order[:runs], order[runs : 2 * runs]))
    return splits
