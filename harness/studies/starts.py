# SPDX-License-Identifier: MIT
"""How long it takes until a guest answers: cold boot, restore, QEMU by hand, and virtme-ng.

All ways run in turns, so that a busy host is unfair to none.
"""

from __future__ import annotations

import functools
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from harness.base.spec import GuestSpec, SnapshotMode
from harness.base.status import HostError
from harness.base.units import GIB, MIB
from harness.guest.ssh.session import SSH
from harness.kernel.kernel import Kernel
from harness.run.prepared import Prepared
from harness.run.session import Session
from harness.studies import by_hand
from harness.studies.rounds import rounds
from harness.workloads.base import Notify

VNG = "vng"
_VNG_DEADLINE_S = 300.0


@dataclass
class Way:
    """One way to a guest, and what it took, in nanoseconds of host time."""

    name: str
    note: str = ""
    stages: dict[str, list[float]] = field(default_factory=dict)
    """Stage -> durations since spawn, one a run. "done": the whole of it, guest ended."""
    died: int = 0
    """Runs that are in no figure."""

    def add(self, stage: str, duration_ns: float) -> None:
        """Another run's duration."""
        self.stages.setdefault(stage, []).append(duration_ns)

    def median_ns(self, stage: str) -> float | None:
        """The median over the runs; None where this way has no such stage."""
        values = self.stages.get(stage)
        return float(np.median(values)) if values else None


STAGES = ("before", "running", "ssh_banner", "first_command", "done")
"""before: the harness's own work until it spawns QEMU; the others count from the spawn, but for
the last. running: the kernel's first console byte, or the restored guest's vCPUs; then sshd's
banner; the first command's end; everything over, QEMU gone."""


def measure(
    runs_dir: Path,
    spec: GuestSpec,
    kernel: Kernel,
    memories: tuple[int, ...],
    runs: int,
    notify: Notify,
) -> list[Way]:
    """Every way `runs` times, in turns. The snapshots are made beforehand, and that is timed too.

    Raises what booting raises.
    """
    cold = Session(runs=runs_dir, snapshot=SnapshotMode.OFF)
    warm = Session(runs=runs_dir, snapshot=SnapshotMode.AUTO)
    saves = Way("save the snapshot", "from stopping the template to the end of its device state")
    hand = Way("cold boot by hand", "no stock ssh client (apt install openssh-client)")
    steps: list[tuple[Way, Callable[[Way], None]]] = []
    for memory in memories:
        size = f"{memory / GIB:g} GiB"
        notify(f"preparing guests of {size}")
        prepared = cold.prepare(replace(spec, memory=memory), kernel)
        with warm.boot(prepared) as run:
            facts = run.directory.record["snapshot"]
        if not facts["used"]:
            raise HostError(f"guests of {size} are not restored here: {facts['reason']}")
        saves.add("running", facts["save_ns"])
        if memory == memories[0]:
            booted = functools.partial(_guest, session=cold, prepared=prepared)
            steps.append((Way(f"cold boot, {size}"), booted))
            if shutil.which(SSH):
                steps.append((hand, functools.partial(_by_hand, prepared=prepared)))
        restored = Way(f"restore, {size}", f"{facts['state_bytes'] / MIB:.2f} MiB of device state")
        steps.append((restored, functools.partial(_guest, session=warm, prepared=prepared)))
    virtme = Way("virtme-ng", "not installed (pip install virtme-ng)")
    if shutil.which(VNG):
        virtme.note = f"{memories[0] / GIB:g} GiB, the same kernel, its own root"
        small = replace(spec, memory=memories[0])
        steps.append((virtme, functools.partial(_virtme, kernel=kernel, spec=small)))
    for number, turn in rounds(steps, runs):
        for way, step in turn:
            notify(f"{way.name}: run {number} of {runs}")
            step(way)
    ways = [saves, *(way for way, _ in steps)]
    return [*ways, *(way for way in (hand, virtme) if way not in ways)]


def _guest(way: Way, session: Session, prepared: Prepared) -> None:
    started = time.monotonic_ns()
    with session.boot(prepared) as run:
        stages = run.guest.boot.stages
        running = stages.get("restored", stages.get("kernel_start"))
        spawn = stages["spawn"]
        way.add("before", spawn - started)
        if running is not None:
            way.add("running", running - spawn)
        for stage in ("ssh_banner", "first_command"):
            way.add(stage, stages[stage] - spawn)
    way.add("done", time.monotonic_ns() - started)


def _by_hand(way: Way, prepared: Prepared) -> None:
    """A guest that dies is left out, and that is said: nobody judges why, as the harness would."""
    way.note = "the same QEMU line in a shell, stock ssh"
    try:
        way.add("first_command", by_hand.first_command_ns(prepared))
    except HostError as error:
        way.died += 1
        way.note += f"; {way.died} died, the last: {error.cause}"


def _virtme(way: Way, kernel: Kernel, spec: GuestSpec) -> None:
    """virtme-ng's whole command: it has no stage that could be seen from outside."""
    command = [VNG, "--run", str(kernel.bzimage), "--disable-kvm", "--cpus", str(spec.vcpus)]
    command += ["--memory", f"{spec.memory // MIB}M", "--", "true"]
    started = time.monotonic_ns()
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_VNG_DEADLINE_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        way.note = f"failed: {error}"
        return
    if done.returncode != 0:
        # It keeps the console to itself unless it is told to be verbose.
        way.note = (
            f"ended with exit status {done.returncode}: `vng -v` says why (its root takes a "
            "kernel with 9P or virtiofs and overlayfs)"
        )
        return
    way.add("done", time.monotonic_ns() - started)
