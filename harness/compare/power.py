# SPDX-License-Identifier: MIT
"""How much a comparison can see, how many runs it takes to see more, and when to stop early."""

from __future__ import annotations

import math

import scipy

from harness.base.status import UsageError
from harness.record.comparison import Errors

EFFECTS = (0.05, 0.02, 0.01)
"""Effects for which a plan says how many runs would find them."""
_MOST_RUNS = 100_000


def minimum_detectable_effect(
    rsd: float, n_a: int, n_b: int, free: int, errors: Errors
) -> float | None:
    """The smallest relative effect that these runs find with the wanted power.

    From the t distribution, for `rsd` was estimated from these very runs, with `free` degrees of
    freedom. None: there are none.
    """
    if free < 1 or min(n_a, n_b) < 2:
        return None
    quantiles = scipy.stats.t.ppf(1 - errors.alpha / 2, free) + scipy.stats.t.ppf(
        errors.power, free
    )
    return float(quantiles * rsd * math.sqrt(1 / n_a + 1 / n_b))


def known_noise_mde(rsd: float, n_a: int, n_b: int, errors: Errors) -> float:
    """The same where the noise of a run is known beforehand."""
    return _z(errors) * rsd * math.sqrt(1 / n_a + 1 / n_b)


def runs_needed(rsd: float, effect: float, errors: Errors) -> int:
    """Runs an arm that find a relative `effect` with the wanted power, at the noise `rsd`.

    The normal approximation n = 2 ((z(1-α/2) + z(power)) rsd / effect)²: it is a plan from a pilot,
    whose estimate of `rsd` is rougher than what the t distribution would add (about one run).
    """
    if effect <= 0:
        raise UsageError(f"an effect to plan for must be above 0, not {effect}")
    return min(max(math.ceil(2 * (_z(errors) * rsd / effect) ** 2), 1), _MOST_RUNS)


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


def _z(errors: Errors) -> float:
    return float(scipy.stats.norm.ppf(1 - errors.alpha / 2) + scipy.stats.norm.ppf(errors.power))
