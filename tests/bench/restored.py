# SPDX-License-Identifier: MIT
"""How long a guest from a snapshot takes to its first command, stage by stage: so many in a row.

    python -m tests.bench.restored [--target tdx] [--target snp] [--kernel SOURCE] [--guests 10]

The time of each guest is that of `Session.boot` from its call until the first command over SSH has
ended, in ms; what the harness does before it spawns QEMU, and what each stage of the guest takes,
add up to it. The CPU time of QEMU until it is proven to be a confidential guest, too, is
less sensitive to what else the host does. A snapshot that is missing is made first.
"""

import argparse
import statistics
import time
from itertools import pairwise
from pathlib import Path

import psutil

from harness.base.spec import SnapshotMode
from harness.base.status import GuestFailure
from harness.run.session import Session
from harness.targets.choose import guest_spec

STAGES = {
    "before": "the harness up to the spawn",
    "qmp_ready": "QEMU starts",
    "restored": "device state loaded, vCPUs run",
    "ready": "the guest's init has taken clock and entropy",
    "ssh_banner": "a connection, and the first word of sshd",
    "logged_in": "key exchange and the client's key",
    "first_command": "two files read by a shell",
}
ALL, CPU = "all", "QEMU's CPU"


def cpu_ms(pid: int) -> float:
    """CPU time of a process so far."""
    used = psutil.Process(pid).cpu_times()
    return (used.user + used.system) * 1000


def measured(session: Session, target: str, kernel: str, guests: int) -> list[dict[str, float]]:
    """Of each guest in turn what each stage took, in ms. Raises GuestFailure where one is booted,
    and as booting does."""
    spec = guest_spec(target=target, accel="tcg", memory="1536M", vcpus=2)
    prepared = session.prepare(spec, session.kernel_for(spec, kernel))
    with session.boot(prepared):
        pass  # the snapshot, where there is none yet
    found = []
    for _ in range(guests):
        started = time.monotonic_ns()
        with session.boot(prepared) as run:
            used = cpu_ms(run.guest.pid)
            stages = run.guest.boot.stages
            if not run.guest.boot.restored:
                raise GuestFailure(f"booted: {run.directory.record['snapshot']}")
        times = [started, stages["spawn"], *(stages[name] for name in [*STAGES][1:])]
        took = [(later - earlier) / 1e6 for earlier, later in pairwise(times)]
        found.append({ALL: sum(took), **dict(zip(STAGES, took, strict=True)), CPU: used})
    return found


def table(found: list[dict[str, float]]) -> str:
    """A row for each guest, then the medians."""
    names = [*found[0]]
    rows = [[f"{guest[name]:.0f}" for name in names] for guest in found]
    middle = [f"{statistics.median(guest[name] for guest in found):.0f}" for name in names]
    lines = [["guest", *names], ["---"] * (len(names) + 1)]
    lines += [[str(number), *row] for number, row in enumerate(rows, 1)]
    lines += [["median", *middle]]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    """Print a table for each target."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--target", action="append", choices=("tdx", "snp"))
    parser.add_argument("--kernel", default="debian-binary:6.12")
    parser.add_argument("--guests", type=int, default=10)
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    options = parser.parse_args()
    session = Session(runs=options.runs, snapshot=SnapshotMode.AUTO)
    for target in options.target or ("tdx", "snp"):
        found = measured(session, target, options.kernel, options.guests)
        print(f"{target}, {options.kernel}, ms:\n{table(found)}", flush=True)
    for name, what in STAGES.items():
        print(f"{name}: {what}")


if __name__ == "__main__":
    main()
