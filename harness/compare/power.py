# SPDX-License-Identifier: MIT
"""How much a comparison can see, how many runs it takes to see more, and when to stop early."""

import math

import scipy

from harness.base.status import UsageError
from harness.record.comparison import Errors

EFFECTS = (0.05, 0.02, 0.01)
"""Effects for which a plan says how many runs would find them."""
_MOST_RUNS = 100_000


def minimum_detectable_effect(error: float, freedom: float, errors: Errors) -> float:
    """The smallest relative effect that runs find with the wanted power.

    `error` is the standard error of their difference, estimated with `freedom` degrees of freedom;
    infinitely many where the noise of a run is known beforehand.
    """
    return float(error * sum(scipy.stats.t.ppf([1 - errors.alpha / 2, errors.power], freedom)))


def runs_needed(rsd: float, effect: float, errors: Errors) -> int:
    """Runs an arm that find a relative `effect` with the wanted power, at the noise `rsd`.

    The normal approximation n = 2 ((z(1-α/2) + z(power)) rsd / effect)²: it is a plan from a pilot,
    whose estimate of `rsd` is rougher than what the t distribution would add (about one run).
    """
    if effect <= 0:
        raise UsageError(f"an effect to plan for must be above 0, not {effect}")
    noise_units = minimum_detectable_effect(rsd, math.inf, errors) / effect
    return min(max(math.ceil(2 * noise_units**2), 1), _MOST_RUNS)


def spending(looks: int, alpha: float) -> list[float]:
    """The level to test at in each of `looks` equally spaced looks at growing data.

    Lan and DeMets' spending function of O'Brien and Fleming's shape (Biometrika 70, 1983): little
    is spent early, nearly all is left for the last look. Each look tests at what it may spend anew;
    by the union bound the looks together cannot exceed `alpha`, whatever test is used, which the
    exact boundaries (somewhat more generous) would only give for normal scores.
    """
    if looks < 1:
        raise UsageError("there must be at least one look at the data")
    quantile = scipy.stats.norm.ppf(1 - alpha / 2)
    spent = [
        float(2 * scipy.stats.norm.sf(quantile / math.sqrt(k / looks))) for k in range(1, looks + 1)
    ]
    return [now - before for before, now in zip([0.0, *spent], spent, strict=False)]


def look_sizes(runs: int, looks: int) -> list[int]:
    """After how many runs an arm each look is due: equally spaced, the last at `runs`."""
    return sorted({max(2, round(runs * k / looks)) for k in range(1, looks + 1)})
