# SPDX-License-Identifier: MIT
"""Effect, interval and p value of a comparison, on logarithms, so on ratios. An arm is one number a
guest: guests are what is replicated, events within one are not independent."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy

from harness.base.status import PreconditionError
from harness.record.comparison import Interval, Resampling, Statistic

Floats = npt.NDArray[np.float64]

FEW_RUNS = 10
"""Below this many runs an arm the bootstrap's intervals are too narrow (a sample of three has only
ten distinct resamples), so the wider of bootstrap and Welch's t is used."""


@dataclass(frozen=True)
class Arms:
    """Two arms' values. With `paired`, run i of A was run next to run i of B."""

    a: Floats
    b: Floats
    paired: bool = False

    @classmethod
    def of(cls, a: npt.ArrayLike, b: npt.ArrayLike, *, paired: bool = False) -> Arms:
        """Check and convert. Raises PreconditionError for what cannot be compared."""
        arms = cls(np.asarray(a, np.float64), np.asarray(b, np.float64), paired)
        for name, values in (("A", arms.a), ("B", arms.b)):
            if values.size == 0:
                raise PreconditionError(f"arm {name} has no runs: there is nothing to compare")
            if not np.all(np.isfinite(values)) or np.any(values <= 0):
                raise PreconditionError(f"arm {name} has values that are not positive numbers")
        if paired and arms.a.size != arms.b.size:
            raise PreconditionError(
                f"paired arms must have as many runs: {arms.a.size} and {arms.b.size}"
            )
        return arms

    @property
    def fewest(self) -> int:
        return int(min(self.a.size, self.b.size))

    @property
    def logarithms(self) -> tuple[Floats, ...]:
        """Natural ones: of A and of B; of pairs, one array of B over A."""
        a, b = np.log(self.a), np.log(self.b)
        return (b - a,) if self.paired else (a, b)

    @property
    def degrees_of_freedom(self) -> int:
        """With which the noise is estimated."""
        return self.a.size - 1 if self.paired else self.a.size + self.b.size - 2

    def constant(self) -> bool:
        """Whether neither arm varies at all: a deterministic figure."""
        return all(np.ptp(values) == 0 for values in self.logarithms)


def ratio(arms: Arms, statistic: Statistic) -> float:
    return float(np.exp(_difference(statistic)(*arms.logarithms, axis=-1)))


def interval(
    arms: Arms, statistic: Statistic, level: float, drawing: Resampling
) -> Interval | None:
    """The ratio's confidence interval; None where the runs are too few to have one."""
    point = ratio(arms, statistic)
    if arms.fewest < 2:
        return None
    if arms.constant():
        return Interval(point, point, level, "no run differs from another")
    low, high = _bootstrap(arms, statistic, level, drawing)
    method = "bootstrap"
    if arms.fewest < FEW_RUNS:
        t_low, t_high = _welch(arms, level)
        low, high = min(low, t_low), max(high, t_high)
        method = "the wider of bootstrap and t"
    return Interval(low, high, level, method)


@dataclass(frozen=True)
class Noise:
    """A run's relative standard deviation, and how well it is known."""

    rsd: float
    freedom: float = math.inf
    """Degrees of freedom of its estimate; infinite where it is known beforehand."""


def noise_of(arms: Arms, known: float | None) -> Noise | None:
    """The noise that is `known` beforehand, or what the runs themselves show where that is more;
    None where neither says anything.

    Instructions of one boot repeat to parts per 100,000, but boots differ: one may leave a block of
    memory more to accept than the next, which is parts per 1,000 of a workload.
    """
    seen = relative_sd(arms)
    if known is not None and (seen is None or seen <= known):
        return Noise(known)
    return None if seen is None else Noise(seen, arms.degrees_of_freedom)


def noise_interval(arms: Arms, noise: Noise, level: float) -> Interval:
    """The interval under `noise`; where that is known one run an arm will do."""
    half = float(scipy.stats.t.ppf((1 + level) / 2, noise.freedom)) * standard_error(arms, noise)
    point = ratio(arms, Statistic.MEAN)
    how = "known noise" if math.isinf(noise.freedom) else "these runs' noise"
    return Interval(
        point * np.exp(-half), point * np.exp(half), level, f"{how} of {noise.rsd:.2g} a run"
    )


def noise_p(arms: Arms, noise: Noise) -> float:
    """Two-sided p value of "no difference" under `noise`."""
    t = np.log(ratio(arms, Statistic.MEAN)) / standard_error(arms, noise)
    return float(2 * scipy.stats.t.sf(abs(t), noise.freedom))


def p_value(arms: Arms, statistic: Statistic, drawing: Resampling) -> float:
    """Two-sided p value of "no difference": a permutation test, exact where that is feasible.

    It holds whatever the distribution, so false alarms keep to their rate; with few runs it cannot
    be small (3 against 3: never below 0.1). Paired arms swap within their pairs.
    """
    if arms.fewest < 2:
        return 1.0
    of_samples = _difference(statistic)

    # The size of the difference, so that it does not matter which arm is called A.
    def difference(a: Floats, b: Floats, axis: int) -> Any:
        found = of_samples(b - a, axis=axis) if arms.paired else of_samples(a, b, axis=axis)
        return np.round(np.abs(found), 12)  # ties are ties, in whatever order they were summed

    result = scipy.stats.permutation_test(
        (np.log(arms.a), np.log(arms.b)),
        difference,
        permutation_type="samples" if arms.paired else "independent",
        vectorized=True,
        n_resamples=drawing.resamples,
        alternative="greater",
        random_state=drawing.seed,
    )
    return float(result.pvalue)


def relative_sd(arms: Arms) -> float | None:
    """The runs' pooled standard deviation over A's mean; None for fewer than two runs an arm.

    Of paired arms it is that of the pairs' ratios, halved in variance, so that it means the same: a
    run's own share of the noise.
    """
    if arms.fewest < 2:
        return None
    if arms.paired:
        return float(np.std(arms.logarithms[0], ddof=1) / np.sqrt(2))
    squares = sum(np.var(values) * values.size for values in (arms.a, arms.b))
    return float(np.sqrt(squares / arms.degrees_of_freedom) / np.mean(arms.a))


def _difference(statistic: Statistic) -> Callable[..., Any]:
    """Of the centres of two samples' logarithms; the centre of pairs' differences."""
    centre = np.mean if statistic is Statistic.MEAN else np.median

    def difference(first: Floats, second: Floats | None = None, *, axis: int) -> Any:
        if second is None:
            return centre(first, axis=axis)
        return centre(second, axis=axis) - centre(first, axis=axis)

    return difference


def standard_error(arms: Arms, noise: Noise) -> float:
    """Of the arms' relative difference."""
    return float(noise.rsd * np.sqrt(1 / arms.a.size + 1 / arms.b.size))


def _welch(arms: Arms, level: float) -> tuple[float, float]:
    """Welch's interval on the logarithms; for pairs, Student's on their differences."""
    if arms.paired:
        test = scipy.stats.ttest_1samp(*arms.logarithms, 0)
    else:
        test = scipy.stats.ttest_ind(*arms.logarithms[::-1], equal_var=False)
    found = test.confidence_interval(level)
    return float(np.exp(found.low)), float(np.exp(found.high))


def _bootstrap(
    arms: Arms, statistic: Statistic, level: float, drawing: Resampling
) -> tuple[float, float]:
    # BCa corrects for skew, and needs a jackknife that medians and tiny samples do not give.
    method = "BCa" if statistic is Statistic.MEAN and arms.fewest >= FEW_RUNS else "percentile"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", scipy.stats.DegenerateDataWarning)
        result = scipy.stats.bootstrap(
            arms.logarithms,
            _difference(statistic),
            confidence_level=level,
            vectorized=True,
            n_resamples=drawing.resamples,
            method=method,
            random_state=drawing.seed,
        )
    low, high = result.confidence_interval
    return float(np.exp(low)), float(np.exp(high))
