# SPDX-License-Identifier: MIT
"""Two arms run in pairs, in random order, so that whatever drifts on the host hits both alike.
Looks at the data are planned, and each may only spend its share of the false alarms."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from msgspec.structs import replace

from harness.base.status import PreconditionError, Status, UsageError
from harness.collect.plan import Collect
from harness.compare.power import look_sizes, spending
from harness.compare.runs import compare_runs, default_criteria
from harness.record.comparison import Comparison, Criteria, Errors, Verdict
from harness.record.view import RunView
from harness.run.prepared import Prepared
from harness.run.session import Session
from harness.studies.rounds import Order, rounds
from harness.workloads.base import Notify, Workload


@dataclass(frozen=True)
class Design:
    """What is decided before the first run."""

    runs: int
    """Runs an arm at most."""
    looks: int = 4
    """How often to look at the data and perhaps stop, the end included."""
    seed: int = 0
    """Of the order of runs."""
    metrics: tuple[str, ...] = ()
    """What is compared; early stopping goes by the first. Empty: what fits the clock."""

    def order(self) -> Iterator[tuple[str, str]]:
        for _, (first, second) in rounds("AB", self.runs, Order.RANDOM, self.seed):
            yield first, second


@dataclass(frozen=True)
class AbSeries:
    a: tuple[RunView, ...]
    b: tuple[RunView, ...]
    found: tuple[Comparison, ...]
    """At the level that the last look may spend; the first decided about stopping."""
    stopped_early: bool


def side_by_side(
    design: Design,
    one: Callable[[str, int], RunView],
    tune: Callable[[Criteria], Criteria],
    notify: Notify,
) -> AbSeries:
    """Run the design. `one(arm, number)` makes a run; `tune` puts what the user wants into the
    criteria that fit the clock. Raises what a run raises."""
    sizes = look_sizes(design.runs, design.looks)
    levels = dict(zip(sizes, spending(len(sizes), tune(Criteria()).errors.alpha), strict=True))
    arms: dict[str, list[RunView]] = {"A": [], "B": []}
    for number, block in enumerate(design.order(), start=1):
        for arm in block:
            arms[arm].append(one(arm, number))
        if number not in levels:
            continue
        found = _look(arms, design, tune, levels[number])
        first = found[0]
        notify(f"{number} runs an arm: {first.metric} {first.effect:+.2%}, {first.verdict.value}")
        if number == design.runs or first.verdict is not Verdict.INCONCLUSIVE:
            runs_a, runs_b = tuple(arms["A"]), tuple(arms["B"])
            return AbSeries(runs_a, runs_b, tuple(found), number < design.runs)
    raise UsageError("a series needs at least two runs an arm")


def _look(
    arms: Mapping[str, Sequence[RunView]],
    design: Design,
    tune: Callable[[Criteria], Criteria],
    alpha: float,
) -> list[Comparison]:
    criteria = tune(default_criteria(arms["A"][0]))
    stricter = replace(criteria, errors=Errors(alpha, criteria.errors.power))
    return compare_runs(arms["A"], arms["B"], design.metrics, stricter, paired=True)


def guest_runner(
    session: Session,
    arms: dict[str, Prepared],
    workload: Workload,
    collect: Collect,
    rerun: str,
    notify: Notify,
) -> Callable[[str, int], RunView]:
    """`one` for real guests: a fresh guest with the workload in it."""

    def one(arm: str, number: int) -> RunView:
        notify(f"run {number} of arm {arm}")
        with session.boot(arms[arm], rerun=rerun, collect=collect) as run:
            run.load(workload)
            outcome = run.conclude()
        if outcome.status is not Status.PASS:
            raise PreconditionError(
                f"run {run.directory.path.name} of arm {arm} is {outcome.status.value}: "
                f"{outcome.cause}",
                hint="a kernel that fails its checks has no cost worth comparing",
            )
        return RunView.load(run.directory.path)

    return one


def write_arms(series: AbSeries, directory: Path) -> None:
    """`directory`/A and /B: links to the runs, for `compare A --against B` later."""
    for name, runs in (("A", series.a), ("B", series.b)):
        (directory / name).mkdir(parents=True, exist_ok=True)
        for run in runs:
            (directory / name / run.id).symlink_to(run.path)
