# SPDX-License-Identifier: MIT
"""Two sets of runs to one verdict that says what it could have seen. Pure.

regressed, improved   the arms differ (interval and permutation test agree) by more than the margin
equivalent            the ratio lies within the margin: two one-sided tests (TOST)
inconclusive          neither: the minimum detectable effect tells how much could hide
"""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import scipy

from harness.base.status import UsageError
from harness.compare.power import (
    EFFECTS,
    Errors,
    known_noise_mde,
    minimum_detectable_effect,
    runs_needed,
)
from harness.compare.statistics import (
    Arms,
    Interval,
    Resampling,
    Statistic,
    interval,
    noise_interval,
    noise_of,
    noise_p,
    p_value,
    ratio,
    relative_sd,
)


class Verdict(enum.StrEnum):
    """The outcome of a comparison."""

    REGRESSED = "regressed"
    IMPROVED = "improved"
    EQUIVALENT = "equivalent"
    INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True)
class Criteria:
    """What is to be decided, and how sure one wants to be."""

    margin: float = 0.02
    """Relative differences up to this do not matter: what "equivalent" means."""
    errors: Errors = field(default_factory=Errors)
    statistic: Statistic = Statistic.MEAN
    higher_is_better: bool = False
    """Throughput; durations and costs are better lower."""
    known_rsd: float | None = None
    """Relative standard deviation of one run where it is known beforehand (instruction counts):
    then one run an arm can decide. Where the runs show more, that is what counts."""
    drawing: Resampling = field(default_factory=Resampling)

    def __post_init__(self) -> None:
        if not 0 < self.margin < 1:
            raise UsageError(f"the margin must be between 0 and 1 (0.02 is 2 %), not {self.margin}")
        if not 0 < self.errors.alpha < 1 or not 0 < self.errors.power < 1:
            raise UsageError("alpha and power must be between 0 and 1")
        if self.known_rsd is not None and self.known_rsd <= 0:
            raise UsageError("a known noise must be above 0")


@dataclass(frozen=True)
class Comparison:
    """B against A."""

    metric: str
    verdict: Verdict
    runs_a: int
    runs_b: int
    ratio: float
    """B over A, of the criteria's statistic."""
    interval: Interval | None
    """Confidence interval of the ratio; None where there are too few runs for one."""
    p_value: float
    """Of "no difference", two-sided."""
    q_value: float | None
    """The p value after control of the whole matrix's false discovery rate; None outside one."""
    median_ratio: float
    median_interval: Interval | None
    relative_sd: float | None
    minimum_detectable_effect: float | None
    """Relative; None where the noise is not known at all."""
    plan: Mapping[float, int]
    """Relative effect -> runs an arm that would find it."""
    criteria: Criteria

    @property
    def effect(self) -> float:
        """Relative change of B against A: 0.05 is 5 % more."""
        return self.ratio - 1


def compare(metric: str, arms: Arms, criteria: Criteria | None = None) -> Comparison:
    """The verdict on one metric. Deterministic: the same arms and criteria give the same answer."""
    criteria = criteria or Criteria()
    alpha = criteria.errors.alpha
    noise = None if criteria.known_rsd is None else noise_of(arms, criteria.known_rsd)
    rsd = noise.rsd if noise else relative_sd(arms)
    found = _interval(arms, criteria, 1 - alpha)
    p = noise_p(arms, noise) if noise else p_value(arms, criteria.statistic, criteria.drawing)
    if noise and math.isinf(noise.freedom):
        mde: float | None = known_noise_mde(noise.rsd, arms.a.size, arms.b.size, criteria.errors)
    else:
        mde = _mde(rsd, arms, criteria)
    return Comparison(
        metric=metric,
        verdict=_verdict(arms, criteria, found, p),
        runs_a=int(arms.a.size),
        runs_b=int(arms.b.size),
        ratio=ratio(arms, criteria.statistic),
        interval=found,
        p_value=p,
        q_value=None,
        median_ratio=ratio(arms, Statistic.MEDIAN),
        median_interval=interval(arms, Statistic.MEDIAN, 1 - alpha, criteria.drawing),
        relative_sd=rsd,
        minimum_detectable_effect=mde,
        plan={e: runs_needed(rsd, e, criteria.errors) for e in EFFECTS} if rsd is not None else {},
        criteria=criteria,
    )


def _verdict(arms: Arms, criteria: Criteria, found: Interval | None, p: float) -> Verdict:
    alpha, margin = criteria.errors.alpha, criteria.margin
    # TOST at alpha is: the interval at 1 - 2 alpha lies within the margins (Schuirmann 1987).
    tost = _interval(arms, criteria, 1 - 2 * alpha)
    if tost is not None and tost.within(margin):
        return Verdict.EQUIVALENT
    if found is None or not found.excludes_one() or p > alpha:
        return Verdict.INCONCLUSIVE
    if 1 / (1 + margin) < ratio(arms, criteria.statistic) < 1 + margin:
        return Verdict.INCONCLUSIVE  # different, and whether it matters is open
    more = found.low > 1
    return Verdict.IMPROVED if more == criteria.higher_is_better else Verdict.REGRESSED


def _interval(arms: Arms, criteria: Criteria, level: float) -> Interval | None:
    if criteria.known_rsd is not None:
        return noise_interval(arms, noise_of(arms, criteria.known_rsd), level)
    return interval(arms, criteria.statistic, level, criteria.drawing)


def _mde(rsd: float | None, arms: Arms, criteria: Criteria) -> float | None:
    if rsd is None:
        return None
    return minimum_detectable_effect(
        rsd, arms.a.size, arms.b.size, arms.degrees_of_freedom, criteria.errors
    )


def control_false_discoveries(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """The comparisons of one matrix, with the share of false alarms among all alarms held to alpha.

    Benjamini and Hochberg's procedure; what it does not uphold becomes inconclusive.
    """
    if not comparisons:
        return []
    q_values = scipy.stats.false_discovery_control([c.p_value for c in comparisons])
    controlled = []
    for comparison, q in zip(comparisons, q_values, strict=True):
        alarmed = comparison.verdict in (Verdict.REGRESSED, Verdict.IMPROVED)
        upheld = not alarmed or q <= comparison.criteria.errors.alpha
        controlled.append(
            replace(
                comparison,
                q_value=float(q),
                verdict=comparison.verdict if upheld else Verdict.INCONCLUSIVE,
            )
        )
    return controlled


def worst_verdict(comparisons: Sequence[Comparison]) -> Verdict:
    """Roll up: regressed before inconclusive before improved before equivalent."""
    order = (Verdict.REGRESSED, Verdict.INCONCLUSIVE, Verdict.IMPROVED, Verdict.EQUIVALENT)
    found = {comparison.verdict for comparison in comparisons}
    return next((verdict for verdict in order if verdict in found), Verdict.INCONCLUSIVE)
