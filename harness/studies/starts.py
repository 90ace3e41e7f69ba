# SPDX-License-Identifier: MIT
"""How long it takes until a guest answers: cold boot, restore, QEMU by hand, and virtme-ng, in
turns, so that a busy host is unfair to none."""

import contextlib
import functools
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import tenacity

from harness.base.guarded import ask
from harness.base.spec import GuestSpec, SnapshotMode
from harness.base.status import HostError
from harness.base.units import GIB, MIB
from harness.guest.process import QemuProcess
from harness.guest.ssh.session import SSH, ssh_command
from harness.image.build import compose_initrd
from harness.image.keys import Keys
from harness.kernel.kernel import Kernel
from harness.run.prepared import INITRD, Prepared
from harness.run.session import Session
from harness.studies.rounds import rounds
from harness.workloads.base import Notify

VNG = "vng"
_VNG_DEADLINE_S = 300.0
_ATTEMPT_S = 20
_PATIENCE_S = 0.1
_HOST = "127.0.0.1"


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
    Raises what booting raises."""
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
        way.add("first_command", first_command_ns(prepared))
    except HostError as error:
        way.died += 1
        way.note += f"; {way.died} died, the last: {error.cause}"


def _virtme(way: Way, kernel: Kernel, spec: GuestSpec) -> None:
    """virtme-ng's whole command: it has no stage that could be seen from outside."""
    command = [VNG, "--run", str(kernel.bzimage), "--disable-kvm", "--cpus", str(spec.vcpus)]
    command += ["--memory", f"{spec.memory // MIB}M", "--", "true"]
    started = time.monotonic_ns()
    try:
        done = ask(command, _VNG_DEADLINE_S)
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


def first_command_ns(prepared: Prepared, deadline_s: float = 120.0) -> int:
    """A guest started as a person would, by the line that `--dry-run` prints: host time from the
    spawn to the end of the first command by the stock ssh client. What the harness takes longer is
    its own. Raises HostError if QEMU ends, or nothing answers within `deadline_s`."""
    with tempfile.TemporaryDirectory(prefix="cvm-harness-") as name:
        directory = Path(name)
        keys = Keys.generate(directory / "keys")
        machine = prepared.machine(compose_initrd(prepared.image, keys, directory / INITRD))
        port = _free_port()
        line = f"exec {machine.command_line(port)}"
        qemu = QemuProcess(("sh", "-c", line), directory / "qemu.log", ())
        try:
            _until(deadline_s)(_listens, qemu, port)
            command = ssh_command(port, keys)
            _until(deadline_s)(_true, command)
            return time.monotonic_ns() - qemu.spawned_ns
        except tenacity.RetryError as error:
            raise HostError(
                f"the guest started by hand did not answer within {deadline_s:g} s",
                details=qemu.said(),
            ) from error
        finally:
            qemu.close()


def _until(deadline_s: float) -> tenacity.Retrying:
    return tenacity.Retrying(
        retry=tenacity.retry_if_result(lambda answered: not answered),
        stop=tenacity.stop_after_delay(deadline_s),
    )


def _listens(qemu: QemuProcess, port: int) -> bool:
    """Whether sshd's banner came on a new connection.

    QEMU's user network answers for a guest that is not up yet, and repeats what it lost only after
    seconds: a client that connects early and waits would measure that.
    """
    status = qemu.poll()
    if status is not None:
        raise HostError(f"QEMU ended with exit status {status}", details=qemu.said())
    with contextlib.suppress(OSError), socket.create_connection((_HOST, port), _PATIENCE_S) as one:
        return one.recv(4) == b"SSH-"
    return False


def _true(command: Sequence[str]) -> bool:
    try:
        return ask([*command, "true"], _ATTEMPT_S).returncode == 0
    except subprocess.TimeoutExpired:
        return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        port: int = probe.getsockname()[1]
        return port
