# SPDX-License-Identifier: MIT
"""The outcome of comparing two sets of runs, as nights, series and `compare --json` keep it."""

import enum
from collections.abc import Mapping

from harness.base.reader import FileType
from harness.base.status import UsageError


class Errors(FileType, frozen=True):
    """The two error rates that a plan is made for."""

    alpha: float = 0.05
    """Of calling equal arms different, two-sided."""
    power: float = 0.8
    """Of finding an effect that is there."""


class Resampling(FileType, frozen=True):
    """How bootstrap and permutation test draw: the same seed gives the same answer."""

    resamples: int = 9_999
    seed: int = 0


class Statistic(enum.StrEnum):
    """What of an arm's runs is compared."""

    MEAN = "mean"
    """The geometric mean: the most efficient where noise is multiplicative and tails are short."""
    MEDIAN = "median"
    """Untouched by a few runs that something else disturbed; wants some 1.6 times the runs."""


class Interval(FileType, frozen=True):
    """A confidence interval of the ratio B / A."""

    low: float
    high: float
    level: float
    """E.g. 0.95."""
    method: str

    def excludes_one(self) -> bool:
        """Whether the arms differ, as far as this interval tells."""
        return self.low > 1 or self.high < 1

    def within(self, margin: float) -> bool:
        """Whether the ratio lies within `margin` (0.02: 2 %) of 1, either way."""
        return self.low > 1 / (1 + margin) and self.high < 1 + margin


class Verdict(enum.StrEnum):
    REGRESSED = "regressed"
    IMPROVED = "improved"
    EQUIVALENT = "equivalent"
    INCONCLUSIVE = "inconclusive"


class Criteria(FileType, frozen=True):
    """What is to be decided, and how sure one wants to be."""

    margin: float = 0.02
    """Relative differences up to this do not matter: what "equivalent" means."""
    errors: Errors = Errors()
    statistic: Statistic = Statistic.MEAN
    higher_is_better: bool = False
    """Throughput; durations and costs are better lower."""
    known_rsd: float | None = None
    """Relative standard deviation of one run where it is known beforehand (instruction counts):
    then one run an arm can decide. Where the runs show more, that is what counts."""
    drawing: Resampling = Resampling()

    def __post_init__(self) -> None:
        if not 0 < self.margin < 1:
            raise UsageError(f"the margin must be between 0 and 1 (0.02 is 2 %), not {self.margin}")
        if not 0 < self.errors.alpha < 1 or not 0 < self.errors.power < 1:
            raise UsageError("alpha and power must be between 0 and 1")
        if self.known_rsd is not None and self.known_rsd <= 0:
            raise UsageError("a known noise must be above 0")


class Comparison(FileType, frozen=True):
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
    def regressed(self) -> bool:
        return self.verdict is Verdict.REGRESSED

    @property
    def effect(self) -> float:
        """Relative change of B against A: 0.05 is 5 % more."""
        return self.ratio - 1
