# SPDX-License-Identifier: MIT
"""Two sets of runs to one verdict that says what it could have seen. Pure.

regressed, improved   the arms differ (interval and permutation test agree) by more than the margin
equivalent            the ratio lies within the margin: two one-sided tests (TOST)
inconclusive          neither: the minimum detectable effect tells how much could hide
"""

from collections.abc import Sequence

import scipy
from msgspec.structs import replace

from harness.compare.power import EFFECTS, minimum_detectable_effect, runs_needed
from harness.compare.statistics import (
    Arms,
    Noise,
    interval,
    noise_interval,
    noise_of,
    noise_p,
    p_value,
    ratio,
    standard_error,
)
from harness.record.comparison import Comparison, Criteria, Interval, Statistic, Verdict


def compare(metric: str, arms: Arms, criteria: Criteria | None = None) -> Comparison:
    """The verdict on one metric. Deterministic: the same arms and criteria give the same answer."""
    criteria = criteria or Criteria()
    errors = criteria.errors
    noise = noise_of(arms, criteria.known_rsd)
    known = noise if criteria.known_rsd is not None else None
    found = _interval(arms, criteria, known, 1 - errors.alpha)
    p = noise_p(arms, known) if known else p_value(arms, criteria.statistic, criteria.drawing)
    mde, plan = None, {}
    if noise:
        mde = minimum_detectable_effect(standard_error(arms, noise), noise.freedom, errors)
        plan = {effect: runs_needed(noise.rsd, effect, errors) for effect in EFFECTS}
    return Comparison(
        metric=metric,
        verdict=_verdict(arms, criteria, known, found, p),
        runs_a=int(arms.a.size),
        runs_b=int(arms.b.size),
        ratio=ratio(arms, criteria.statistic),
        interval=found,
        p_value=p,
        q_value=None,
        median_ratio=ratio(arms, Statistic.MEDIAN),
        median_interval=interval(arms, Statistic.MEDIAN, 1 - errors.alpha, criteria.drawing),
        relative_sd=noise.rsd if noise else None,
        minimum_detectable_effect=mde,
        plan=plan,
        criteria=criteria,
    )


def _verdict(
    arms: Arms, criteria: Criteria, known: Noise | None, found: Interval | None, p: float
) -> Verdict:
    alpha, margin = criteria.errors.alpha, criteria.margin
    # TOST at alpha is: the interval at 1 - 2 alpha lies within the margins (Schuirmann 1987).
    tost = _interval(arms, criteria, known, 1 - 2 * alpha)
    if tost is not None and tost.within(margin):
        return Verdict.EQUIVALENT
    if found is None or not found.excludes_one() or p > alpha:
        return Verdict.INCONCLUSIVE
    if 1 / (1 + margin) < ratio(arms, criteria.statistic) < 1 + margin:
        return Verdict.INCONCLUSIVE  # different, and whether it matters is open
    more = found.low > 1
    return Verdict.IMPROVED if more == criteria.higher_is_better else Verdict.REGRESSED


def _interval(arms: Arms, criteria: Criteria, known: Noise | None, level: float) -> Interval | None:
    if known:
        return noise_interval(arms, known, level)
    return interval(arms, criteria.statistic, level, criteria.drawing)


def control_false_discoveries(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """The comparisons of one matrix, with the share of false alarms among all alarms held to alpha.
    Benjamini and Hochberg's procedure; what it does not uphold becomes inconclusive."""
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
