# SPDX-License-Identifier: MIT
"""Recorded runs to comparisons: which figures two sets of runs have, and whether they may be
compared at all. Pure: reads nothing but what it is given."""

import math
from collections.abc import Mapping, Sequence

from msgspec.structs import replace

from harness.analysis import cost
from harness.analysis.metrics import METRICS, Better, Metric, metric_named
from harness.base.guest_options import blank_spec, guest_options
from harness.base.spec import GuestSpec
from harness.base.status import PreconditionError, UsageError
from harness.compare.statistics import Arms
from harness.compare.verdict import compare, control_false_discoveries
from harness.record.comparison import Comparison, Criteria
from harness.record.rundir import plain
from harness.record.view import RunView, dig

DEFAULT_METRICS = (
    "accept.total_ns",
    "accept.p50_ns",
    "accept.p99_ns",
    "boot.init_ns",
    "workload.elapsed_ns",
)
"""Compared under the wall clock where runs have them and none is named."""
COST_METRICS = tuple(m.name for m in METRICS if m.name.startswith("cost."))
"""Compared under the icount clock."""

# What must be equal for figures to mean the same, and what a comparison may well be about, beside
# what the table of guest options says of that.
_HOST: Mapping[str, tuple[str, ...]] = {
    "host CPU": ("host", "cpu"),
    "host CPUs": ("host", "cpus"),
    "QEMU": ("qemu", "version"),
}
_KERNEL: Mapping[str, tuple[str, ...]] = {"kernel": ("kernel", "digest")}


def check_arm(name: str, runs: Sequence[RunView]) -> None:
    """Raise UsageError unless the runs of one arm are repetitions of one another, and passed."""
    if not runs:
        raise UsageError(f"arm {name} has no runs")
    for run in runs:
        if run.record.get("status") not in ("PASS", "DONE"):
            raise UsageError(
                f"run {run.record.get('id')} of arm {name} has status {run.record.get('status')}: "
                f"{run.record.get('cause')}",
                hint="leave it out: what failed was not measured",
            )
    for setting, values in (_settings(runs) | _subjects(runs)).items():
        raise UsageError(
            f"the runs of arm {name} are not repetitions: their {setting} differs "
            f"({', '.join(values)})"
        )
    workloads = {_workload(run) for run in runs}
    if len(workloads) > 1:
        raise UsageError(f"the runs of arm {name} differ in their workload: {sorted(workloads)}")


def check_comparable(a: Sequence[RunView], b: Sequence[RunView], *, anyway: bool) -> list[str]:
    """What differs between the arms, one line each. Raises UsageError for what makes their figures
    mean different things, unless `anyway`."""
    check_arm("A", a)
    check_arm("B", b)
    both = (a[0], b[0])
    strange = _settings(both)
    if _workload(a[0]) != _workload(b[0]):
        strange["workload"] = [_workload(a[0]), _workload(b[0])]
    if strange and not anyway:
        name, values = next(iter(strange.items()))
        raise UsageError(
            f"the arms cannot be compared: their {name} differs ({values[0]} against {values[1]})",
            hint="compare runs of the same guest on the same host, or insist with --anyway",
        )
    known = strange | _subjects(both)
    return [f"{name}: {values[0]} → {values[1]}" for name, values in known.items()]


def compare_runs(
    a: Sequence[RunView],
    b: Sequence[RunView],
    names: Sequence[str],
    criteria: Criteria | None = None,
    *,
    paired: bool = False,
) -> list[Comparison]:
    """Each metric's comparison, with the false discovery rate of all of them controlled.

    Without `names` the default ones that every run has. `criteria` None: what fits the clock.
    Raises PreconditionError where a named metric is missing from a run, or none is left.
    """
    counted = _clock(a[0]) == "icount"
    criteria = criteria or default_criteria(a[0])
    wanted = names or (COST_METRICS if counted else DEFAULT_METRICS)
    found = []
    for metric in (metric_named(name) for name in wanted):
        values = [[metric.value(run) for run in runs] for runs in (a, b)]
        if any(value is None or value <= 0 for arm in values for value in arm):
            if names:
                raise PreconditionError(f"not every run has a {metric.name} above zero")
            continue
        arms = Arms.of(*values, paired=paired)  # type: ignore[arg-type]
        own = criteria_for(metric, criteria)
        if own.known_rsd and metric.name in cost.OF_WORKLOAD and arms.fewest < 2:
            # More runs would show how boots differ; of one it has to be assumed.
            boots = max(cost.block_share(run) for run in (*a, *b))
            own = replace(own, known_rsd=math.hypot(own.known_rsd, boots))
        found.append(compare(metric.name, arms, own))
    if not found:
        raise PreconditionError(f"no figure to compare: the runs have none of {', '.join(wanted)}")
    return control_false_discoveries(found)


def default_criteria(run: RunView) -> Criteria:
    """What counts as equal: 2 % under the wall clock, 0.1 % of instructions under icount."""
    return Criteria(margin=cost.MARGIN) if _clock(run) == "icount" else Criteria()


def criteria_for(metric: Metric, criteria: Criteria) -> Criteria:
    """The criteria with the metric's own direction, and its noise where that is known beforehand:
    only what counts instructions has the noise of counting."""
    return replace(
        criteria,
        higher_is_better=metric.better is Better.HIGHER,
        known_rsd=cost.KNOWN_RSD.get(metric.name),
    )


def _clock(run: RunView) -> object:
    return run.get("spec", "clock")


def _workload(run: RunView) -> str:
    """Name and parameters: everything but what came of it."""
    found = run.workload or {}
    parts = found.get("parameters")
    return f"{found.get('name')} {parts}" if parts else str(found.get("name"))


def _settings(runs: Sequence[RunView]) -> dict[str, list[str]]:
    """What differs between `runs` that figures rest on, and the values."""
    return _options(runs, setting=True) | _differing(_HOST, runs)


def _subjects(runs: Sequence[RunView]) -> dict[str, list[str]]:
    """What differs between `runs` that a comparison may be about, and the values."""
    return _differing(_KERNEL, runs) | _options(runs, setting=False)


def _options(runs: Sequence[RunView], *, setting: bool) -> dict[str, list[str]]:
    options = [o for o in guest_options() if o.row.compared.setting is setting]
    return _differing({o.compared: ("spec", *o.recorded) for o in options}, runs)


def _differing(
    what: Mapping[str, tuple[str, ...]], runs: Sequence[RunView]
) -> dict[str, list[str]]:
    # A run that is older than an option had its default.
    defaults = {"spec": plain(blank_spec(GuestSpec.target, GuestSpec.memory))}
    found = {}
    for name, keys in what.items():
        recorded = (run.get(*keys) for run in runs)
        texts = (str(dig(defaults, *keys) if value is None else value) for value in recorded)
        if len(values := list(dict.fromkeys(texts))) > 1:
            found[name] = values
    return found
