# SPDX-License-Identifier: MIT
"""A measured cell: fresh guests one at a time, A and B interleaved."""

import random
from collections.abc import Iterable, Sequence
from pathlib import Path

from harness.analysis.metrics import metric_named
from harness.base.reader import FileType
from harness.base.spec import Clock
from harness.base.status import HarnessError, PreconditionError, Status
from harness.compare.baselines import baseline_for, baseline_of, compare_with
from harness.compare.runs import criteria_for
from harness.compare.statistics import Arms
from harness.compare.verdict import compare, worst_verdict
from harness.jobs.nightly.plan import Cell
from harness.record.attempts import Sample
from harness.record.comparison import Comparison, Criteria, Verdict
from harness.record.journal import Event, told
from harness.record.view import RunView


class Turn(FileType, frozen=True):
    """One guest to run: its arm, and its 0-based index in that arm."""

    arm: str
    """A kernel's name."""
    index: int


def order(cell: Cell, index: int, seed: int) -> tuple[Turn, ...]:
    """The guests of pair `index`: both arms, in an order that is random and always the same."""
    arms = [cell.kernel, *([cell.base] if cell.base else [])]
    # Seeded with text: hash() differs between processes, and a resumed night must go on alike.
    random.Random(f"{seed} {cell.key} {index}").shuffle(arms)
    return tuple(Turn(arm, index) for arm in arms)


def samples_of(events: Iterable[Event], cell: Cell) -> dict[Turn, Sample]:
    """The guests of `cell` that have been run and are good."""
    found = {
        told(event, Turn): told(event, Sample)
        for event in events
        if event["event"] == "sample" and event.get("cell") == cell.key
    }
    good = (Status.PASS, Status.DONE)
    return {turn: sample for turn, sample in found.items() if sample.status in good}


def values(samples: dict[Turn, Sample], arm: str, metric: str) -> list[float]:
    """The values of `metric` on `arm`, in order. Raises PreconditionError where one lacks it."""
    found = []
    for turn in sorted(samples, key=lambda turn: turn.index):
        if turn.arm == arm:
            sample = samples[turn]
            if metric not in sample.metrics:
                raise PreconditionError(
                    f"{metric} is not among the figures of run {sample.run_dir}",
                    hint="see docs/metrics.md for what each metric needs",
                )
            found.append(sample.metrics[metric])
    return found


def metrics_of_cell(cell: Cell) -> tuple[str, ...]:
    """What is compared: what the plan says, else what fits the clock."""
    assert cell.workload
    assert cell.guest
    return cell.workload.metrics or (default_metric(cell.guest.spec.clock),)


def default_metric(clock: Clock) -> str:
    """What a workload costs: instructions where they are the clock, time elsewhere."""
    return "cost.workload" if clock is Clock.ICOUNT else "workload.elapsed_ns"


def comparisons_of(cell: Cell, samples: dict[Turn, Sample]) -> list[Comparison]:
    """The cell's kernel against its base, metric by metric. Raises PreconditionError."""
    assert cell.workload
    assert cell.base
    found = []
    criteria = Criteria(margin=cell.workload.margin_percent / 100)
    for metric in metrics_of_cell(cell):
        arms = Arms.of(
            values(samples, cell.base, metric), values(samples, cell.kernel, metric), paired=True
        )
        found.append(compare(metric, arms, criteria_for(metric_named(metric), criteria)))
    return found


def enough(cell: Cell, samples: dict[Turn, Sample], pairs: int) -> bool:
    """Whether `pairs` pairs will do: the wanted number, or the wanted sharpness."""
    workload = cell.workload
    assert workload
    if pairs < workload.repetitions:
        return False
    if workload.detect_percent is None or not cell.base or pairs >= workload.most:
        return True
    wanted = workload.detect_percent / 100
    found = comparisons_of(cell, samples)
    return all(
        c.minimum_detectable_effect is not None and c.minimum_detectable_effect <= wanted
        for c in found
    )


def judge_comparisons(comparisons: Sequence[Comparison]) -> tuple[Status, str]:
    """Status and cause of a measured cell. Inconclusive is DONE: measured, and no verdict."""
    if not comparisons:
        return Status.ERROR, "no metric was compared"
    worst = worst_verdict(comparisons)
    statuses = {Verdict.REGRESSED: Status.FAIL, Verdict.INCONCLUSIVE: Status.DONE}
    cause = "; ".join(describe(c) for c in comparisons if c.verdict is worst)
    return statuses.get(worst, Status.PASS), cause


def against_baseline(cell: Cell, runs: Sequence[Path], directory: Path) -> tuple[Status, str]:
    """Status and cause of a cell whose kernel is measured without a base, against the figures kept
    in git. DONE, saying why, where there is nothing to compare with."""
    assert cell.workload
    if not directory.is_dir():
        return Status.DONE, f"measured; there are no baselines in {directory}"
    try:
        now = baseline_of([RunView.load(run) for run in runs])
        chosen = baseline_for(now, directory, anyway=False)
        criteria = Criteria(margin=cell.workload.margin_percent / 100)
        status, cause = judge_comparisons(
            compare_with(chosen, now, metrics_of_cell(cell), criteria)
        )
    except HarnessError as error:
        return Status.DONE, f"measured, not compared: {error.cause}"
    return status, f"against the baseline of {chosen.kernel}: {cause}"


def describe(comparison: Comparison) -> str:
    """One line: the verdict, the effect, its interval, what could have been missed."""
    text = f"{comparison.metric} {comparison.verdict.value}: {comparison.effect:+.2%}"
    if comparison.interval:
        low, high = comparison.interval.low - 1, comparison.interval.high - 1
        text += f" ({comparison.interval.level:.0%} interval {low:+.2%} to {high:+.2%})"
    if comparison.minimum_detectable_effect is not None:
        text += f", would have seen {comparison.minimum_detectable_effect:.2%}"
    return text
