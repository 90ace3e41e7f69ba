# SPDX-License-Identifier: MIT
"""Random sequences of operations on a live guest; every invariant after each; shrunk on failure.

Hypothesis chooses and shrinks. Each sequence gets a guest of its own, so a sequence that fails
fails again. The shortest one found is written to sequence.json in the runs directory;
`pytest tests/acceptance/test_random.py --sequence FILE` runs it again.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, Verbosity, seed, settings
from hypothesis import strategies as st
from hypothesis.errors import Flaky
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from harness.base.spec import TargetName
from harness.base.status import GuestFailure, PreconditionError, Status
from harness.suite.judge import judge_test, limits
from harness.suite.need import Need
from harness.suite.operations import Operation, apply, inspect, load_sequence, save_sequence
from harness.suite.plugin.options import option
from harness.suite.pool import Director

pytestmark = [pytest.mark.guest]
NEED = Need.of(
    {
        "memory": "1G",
        "vcpus": 2,
        "cost": "tdx",
        "maxmem": "4G",
        "slots": 4,
        "layers": ("kexec",),
        "unaccepted": "256M",
        "features": ("hook",),
        "fresh": True,
    }
)
PLUGGING = ("maxmem", "slots")
EXAMPLES = {"quick": 1, "full": 12, "soak": 400}
STEPS = {"quick": 6, "full": 12, "soak": 24}

orders = st.sampled_from([0, 0, 1, 2, 3, 9, 10])
places = st.integers(0, 63)


def need_on(target: TargetName) -> Need:
    """What a sequence wants of its guest: memory to plug only where there can be any."""
    if not NEED.cannot_on(target):
        return NEED
    guest = {name: value for name, value in NEED.guest.items() if name not in PLUGGING}
    return dataclasses.replace(NEED, guest=guest)


class Sequence:
    """One sequence on one fresh guest."""

    def __init__(self, director: Director, name: str) -> None:
        self.director = director
        self.name = name
        self.steps: list[Operation] = []
        self.failure: GuestFailure | None = None
        need = need_on(director.base.target)
        self.plugs = "maxmem" in need.guest
        self.subject = director.fresh(need)

    def do(self, step: Operation) -> None:
        """One step and all that must hold after it. Raises the failure with its signals."""
        self.steps.append(step)
        subject = self.subject
        error: Exception | None = None
        try:
            apply(subject, step)
            subject.checks += inspect(subject)
        except Exception as failure:
            error = failure
        checks = subject.look(error)
        self.director.pool.note(checks)
        verdict = judge_test(checks, self.name, self.director.version, self.director.known)
        subject.checks.clear()
        if verdict.status is Status.FAIL:
            # Shrinking goes by the failure's kind: the steps are not part of what it says.
            cause = f"signals {', '.join(verdict.signals)}"
            self.failure = GuestFailure(cause, details=verdict.details)
            raise self.failure
        if verdict.status is Status.ERROR:
            raise PreconditionError(verdict.cause, details=verdict.details)

    def close(self) -> None:
        self.director.release()


class Machine(RuleBasedStateMachine):
    """The rules; `begin` makes the sequence they run in."""

    most_second_kernels = 1
    """In one sequence: each takes a boot's time, and a third has no more to show than a second."""
    most_cpu_cycles = STEPS["soak"]
    begin: Callable[[], Sequence]
    ended: Callable[[Sequence], None]

    def __init__(self) -> None:
        super().__init__()
        self.sequence = type(self).begin()
        self.second_kernels = 0
        self.cpu_cycles = 0

    def teardown(self) -> None:
        type(self).ended(self.sequence)

    def step(self, name: str, **values: int | str) -> None:
        self.sequence.do(Operation(name, values))

    @initialize()
    def soak_first(self) -> None:
        self.step("soak")

    @rule(order=orders, mib=st.integers(1, 24), cpus=st.sampled_from([1, 2]))
    def alloc(self, order: int, mib: int, cpus: int) -> None:
        count = max(1, (mib << 8 >> order) // cpus)
        self.step("alloc", order=order, count=count, cpus=cpus)

    @rule(
        order=st.sampled_from([0, 1, 3]),
        mib=st.integers(1, 12),
        context=st.sampled_from(["irqsoff", "softirq", "hardirq"]),
    )
    def alloc_atomic(self, order: int, mib: int, context: str) -> None:
        self.step("alloc", gfp="atomic", context=context, order=order, count=mib << 8 >> order)

    @rule(count=st.sampled_from([16, 128, 512]), repeat=st.integers(1, 24))
    def bulk(self, count: int, repeat: int) -> None:
        self.step("bulk", count=count, repeat=repeat)

    @rule(kib=st.sampled_from([1, 4, 8]), count=st.integers(1, 1500))
    def slab(self, kib: int, count: int) -> None:
        self.step("slab", size=kib << 10, count=count)

    @rule(mib=st.integers(1, 24))
    def vmalloc(self, mib: int) -> None:
        self.step("vmalloc", size=mib << 20)

    @rule(place=places, blocks=st.integers(1, 6), shift=st.sampled_from([0, 0, 1, 256, 512]))
    def contiguous_range(self, place: int, blocks: int, shift: int) -> None:
        self.step("range", place=place, blocks=blocks, shift=shift)

    @rule(place=places, blocks=st.integers(1, 4))
    def isolate(self, place: int, blocks: int) -> None:
        self.step("isolate", place=place, blocks=blocks)

    @rule(
        mib=st.integers(2, 32),
        page=st.sampled_from(["4k", "thp"]),
        workers=st.sampled_from([1, 2, 4]),
    )
    def touch(self, mib: int, page: str, workers: int) -> None:
        self.step("touch", mib=mib * workers, page=page, workers=workers)

    @rule()
    def free(self) -> None:
        self.step("free")

    @rule(stride=st.integers(2, 4))
    def thin(self, stride: int) -> None:
        self.step("thin", stride=stride)

    @rule()
    def soak(self) -> None:
        self.step("soak")

    @rule()
    def zeropad(self) -> None:
        self.step("zeropad")

    @rule(name=st.sampled_from(["drop_caches", "compact", "read"]))
    def from_userspace(self, name: str) -> None:
        self.step(name)

    @rule(place=places)
    def kcore(self, place: int) -> None:
        self.step("kcore", place=place)

    @rule(place=places)
    def block(self, place: int) -> None:
        self.step("block", place=place)

    @rule(count=st.integers(1, 64))
    def nolock(self, count: int) -> None:
        self.step("nolock", count=count)

    @precondition(lambda self: self.cpu_cycles < self.most_cpu_cycles)
    @rule()
    def cpu(self) -> None:
        self.cpu_cycles += 1
        self.step("cpu")

    @precondition(lambda self: self.sequence.plugs)
    @rule(name=st.sampled_from(["plug", "unplug"]))
    def dimm(self, name: str) -> None:
        self.step(name)

    @precondition(lambda self: self.second_kernels < self.most_second_kernels)
    @rule()
    def kexec(self) -> None:
        self.second_kernels += 1
        self.step("kexec")

    @rule(pages=st.integers(1, 8))
    def huge(self, pages: int) -> None:
        self.step("huge", pages=pages)


def test_no_sequence_of_operations_breaks_an_invariant(
    director: Director, request: pytest.FixtureRequest
) -> None:
    name = f"{Path(__file__).name}::{request.node.name}"
    tier = option(request.config, "--tier")
    failed: list[Sequence] = []
    runs, found_s, started = 0, 0.0, time.monotonic()

    at_most = limits(name, director.version, director.known)
    kernels = 0 if tier == "quick" else Machine.most_second_kernels

    class Bound(Machine):
        most_second_kernels = min(kernels, at_most.get("kexec", kernels))
        most_cpu_cycles = at_most.get("cpu", Machine.most_cpu_cycles)

        @staticmethod
        def begin() -> Sequence:
            return Sequence(director, name)

        @staticmethod
        def ended(sequence: Sequence) -> None:
            nonlocal runs, found_s
            runs += 1
            if sequence.failure:
                failed.append(sequence)
                found_s = found_s or time.monotonic() - started
            sequence.close()

    chosen = int(option(request.config, "--seed") or int.from_bytes(os.urandom(4)))
    profile = settings(
        max_examples=EXAMPLES[tier],
        stateful_step_count=STEPS[tier],
        deadline=None,
        database=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
        print_blob=False,
        verbosity=Verbosity.quiet,
        report_multiple_bugs=False,
    )
    try:
        run_state_machine_as_test(seed(chosen)(Bound), settings=profile)
    except (GuestFailure, Flaky) as error:
        if isinstance(error, GuestFailure):  # Hypothesis ends on the shortest that it found
            failure, steps = error, failed[-1].steps if failed else []
        else:  # a race: it does not fail each time, so that nothing can be shrunk
            found = min(failed, key=lambda sequence: len(sequence.steps))
            failure, steps = found.failure or GuestFailure(str(error)), found.steps
        path = Path(option(request.config, "--runs")) / f"sequence-{chosen}.json"
        save_sequence(path, steps)
        again = f"pytest tests/acceptance/test_random.py --sequence {path}"
        words = "" if failure is error else " (not each time)"
        raise GuestFailure(
            f"{failure.cause}{words}: seed {chosen}, found in {found_s:.0f} s, shrunk in "
            f"{time.monotonic() - started - found_s:.0f} s to {len(steps)} steps: "
            f"{'; '.join(step.describe() for step in steps)}",
            hint=again,
            details=failure.details,
        ) from None
    assert runs >= EXAMPLES[tier], f"only {runs} sequences ran"


def test_a_sequence_from_a_file(director: Director, request: pytest.FixtureRequest) -> None:
    path = option(request.config, "--sequence")
    if not path:
        pytest.skip("no --sequence FILE to run again")
    sequence = Sequence(director, f"{Path(__file__).name}::{request.node.name}")
    try:
        for step in load_sequence(Path(path)):
            sequence.do(step)
    finally:
        sequence.close()
