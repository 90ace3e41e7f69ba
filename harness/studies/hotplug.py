# SPDX-License-Identifier: MIT
"""The policies for hot-added memory compared: the cost of plugging, and of allocating then."""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from rich.table import Table

from harness.analysis.hotplug import EVENT_COLUMNS, PlugFigures, plug_figures, read_steps
from harness.base.emulation import HotplugPolicy
from harness.base.spec import AutoOnline, GuestSpec
from harness.base.status import PreconditionError, Status, UsageError, worst
from harness.base.units import GIB, UNIT_SIZE, format_ns, format_size
from harness.guest.hotplug import STEPS, Hotplug
from harness.kernel.kernel import Kernel
from harness.record.events import FILE, Events
from harness.record.histogram import Histogram, merge, parse_histogram
from harness.run.run import Run
from harness.run.session import Session
from harness.studies.rounds import arms_table, rounds
from harness.workloads.touch import Touch

POLICIES = (HotplugPolicy.LAZY, HotplugPolicy.EAGER, HotplugPolicy.ONLINE)
_TAIL_PERCENT = 99.95
"""One first touch of a 4 KiB page in 1024 finds no accepted memory and accepts a 4 MiB block."""


@dataclass(frozen=True)
class HotplugPlan:
    """What every guest of the study does."""

    dimms: int = 4
    dimm_bytes: int = GIB
    touch_bytes: int = GIB
    """First-touched by one thread, in 4 KiB pages, out of what was plugged."""
    repeats: int = 1
    """Guests for each policy."""


@dataclass(frozen=True)
class HotplugSample:
    plugs: tuple[PlugFigures, ...]
    memory_accepted_units: int
    """Of what was plugged, until the last DIMM was online."""
    touch_ns: int
    touches: Histogram
    status: Status
    cause: str
    directory: Path

    @property
    def plug_ns(self) -> int:
        """device_add to the guest's word, over all DIMMs."""
        return sum(figures.to_online_ns for figures in self.plugs)


@dataclass(frozen=True)
class PolicyArm:
    policy: HotplugPolicy
    samples: tuple[HotplugSample, ...]


def guest_for(spec: GuestSpec, plan: HotplugPlan, policy: HotplugPolicy) -> GuestSpec:
    """`spec` with the policy, and with room for the DIMMs."""
    size = plan.dimms * plan.dimm_bytes
    if not 0 < plan.touch_bytes < size:
        raise UsageError("the study touches less than what it plugs")
    return dataclasses.replace(
        spec,
        emulation=dataclasses.replace(spec.emulation, hotplug=policy),
        maxmem=max(spec.maxmem or 0, spec.memory + size + spec.virtio_mem * spec.numa_nodes),
        slots=max(spec.slots, plan.dimms),
        auto_online=AutoOnline.MOVABLE,
    )


def compare_policies(
    session: Session,
    spec: GuestSpec,
    kernel: Kernel,
    plan: HotplugPlan,
    rerun: str,
    notify: Callable[[str], None],
) -> list[PolicyArm]:
    """Each policy's guests, the policies in turn, so that a host that slows down slows all."""
    samples: dict[HotplugPolicy, list[HotplugSample]] = {policy: [] for policy in POLICIES}
    for number, turn in rounds(POLICIES, plan.repeats):
        for policy in turn:
            notify(f"{policy.value}, guest {number} of {plan.repeats}")
            prepared = session.prepare(guest_for(spec, plan, policy), kernel)
            with session.boot(prepared, rerun=rerun) as run:
                samples[policy].append(measure(run, plan, notify))
    return [PolicyArm(policy, tuple(taken)) for policy, taken in samples.items()]


def measure(run: Run, plan: HotplugPlan, notify: Callable[[str], None]) -> HotplugSample:
    """Plug, touch, judge one guest. Raises PreconditionError where the trace is missing."""
    hotplug = Hotplug(run.guest)
    for _ in range(plan.dimms):
        hotplug.plug_dimm(plan.dimm_bytes)
    plugged = hotplug.devices()
    accepted = sum(d.size // UNIT_SIZE - hotplug.pending(d) for d in plugged)
    result = run.load(Touch(bytes=plan.touch_bytes), notify)
    outcome = run.conclude()
    directory = run.directory.path
    if outcome.clocks is None or not (directory / FILE).exists():
        raise PreconditionError("the study needs the trace of every accept and both clocks")
    events = Events(directory / FILE).batches(*EVENT_COLUMNS)
    return HotplugSample(
        plugs=plug_figures(read_steps(directory / STEPS), events, outcome.clocks),
        memory_accepted_units=accepted,
        touch_ns=result.elapsed_ns,
        touches=merge([parse_histogram(report["histogram"]) for report in result.reports]),
        status=outcome.status,
        cause=outcome.cause,
        directory=directory,
    )


def study_status(arms: Sequence[PolicyArm]) -> Status:
    """The worst of all guests; DONE where all passed: a comparison has no verdict of its own."""
    status = worst(sample.status for arm in arms for sample in arm.samples)
    return Status.DONE if status is Status.PASS else status


def table(
    arms: Sequence[PolicyArm], plan: HotplugPlan, cost: str, *, markdown: bool = False
) -> Table:
    """One column a policy, one row a figure: medians over the guests."""
    size = format_size(plan.dimms * plan.dimm_bytes)

    def spread(arm: PolicyArm, value: Callable[[HotplugSample], float]) -> str:
        found = [value(sample) for sample in arm.samples]
        ends = f" ({format_ns(min(found))}–{format_ns(max(found))})" if len(found) > 1 else ""
        return format_ns(median(found)) + ends

    def accepted(arm: PolicyArm) -> str:
        units = median(sample.memory_accepted_units for sample in arm.samples)
        return format_size(int(units) * UNIT_SIZE)

    def latencies(arm: PolicyArm) -> str:
        touches = merge([sample.touches for sample in arm.samples])
        points = touches.percentiles([50, _TAIL_PERCENT, 100])
        return " / ".join(format_ns(float(ns)) for ns in points)

    def first_accept(arm: PolicyArm) -> str:
        """From device_add of the first DIMM to the first accept of a unit of it."""
        times = [sample.plugs[0].to_first_accept_ns for sample in arm.samples]
        found = [ns for ns in times if ns is not None]
        return format_ns(median(found)) if found else "none"

    rows: list[tuple[str, Callable[[PolicyArm], str]]] = [
        (f"time to plug {size}", lambda a: spread(a, lambda s: s.plug_ns)),
        ("device_add to the first accept", first_accept),
        ("accepted up front", accepted),
        (
            f"first touch of {format_size(plan.touch_bytes)}: p50 / p{_TAIL_PERCENT:g} / max",
            latencies,
        ),
        ("… in all", lambda a: spread(a, lambda s: s.touch_ns)),
        ("time to plug and touch", lambda a: spread(a, lambda s: s.plug_ns + s.touch_ns)),
        ("verdict", lambda a: worst(s.status for s in a.samples).value),
    ]
    title = f"Policies for hot-added memory, {plan.repeats} guests each; {cost}"
    return arms_table(title, arms, lambda a: a.policy.value, rows, markdown=markdown)
