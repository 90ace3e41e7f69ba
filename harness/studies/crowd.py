# SPDX-License-Identifier: MIT
"""Many guests restored at once from one snapshot: how long, and how much memory they share."""

import concurrent.futures
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from harness.base.spec import SnapshotMode
from harness.base.status import HostError
from harness.run.prepared import Prepared
from harness.run.session import Session
from harness.workloads.base import Notify

_MEET_S = 600.0


@dataclass(frozen=True)
class Crowd:
    """What a crowd took. Bytes are of all QEMU processes together (proc(5), smaps_rollup)."""

    guests: int
    all_ready_ns: int
    """Host time until the last guest had been restored and proven."""
    resident_bytes: int
    """As if each had its own copy of what it maps."""
    proportional_bytes: int
    """With what is shared counted once."""


def gather(runs_dir: Path, prepared: Prepared, guests: int, notify: Notify) -> Crowd:
    """Restore `guests` at once and weigh them while all of them live. Raises what restoring raises;
    HostError if a guest had to be booted."""
    session = Session(runs=runs_dir, snapshot=SnapshotMode.AUTO)
    notify("making the snapshot")
    with session.boot(prepared):
        pass
    meeting = threading.Barrier(guests + 1, timeout=_MEET_S)
    leaving = threading.Event()

    def one(_: int) -> None:
        try:
            with session.boot(prepared) as run:
                if not run.guest.boot.restored:
                    why = run.directory.record["snapshot"]
                    raise HostError(f"a guest was booted, not restored: {why}")
                pids.append(run.guest.pid)
                meeting.wait()
                leaving.wait(_MEET_S)
        except BaseException:
            meeting.abort()
            raise

    pids: list[int] = []
    notify(f"restoring {guests} guests at once")
    started = time.monotonic_ns()
    with concurrent.futures.ThreadPoolExecutor(guests) as pool:
        running = [pool.submit(one, number) for number in range(guests)]
        try:
            meeting.wait()
            took = time.monotonic_ns() - started
            weights = [psutil.Process(pid).memory_full_info() for pid in pids]
        except threading.BrokenBarrierError:
            weights = []
        finally:
            leaving.set()
        errors = [e for future in running if (e := future.exception())]
    first = next((e for e in errors if not isinstance(e, threading.BrokenBarrierError)), None)
    if first:
        raise first
    if len(weights) != guests:
        raise HostError(f"not all of {guests} guests were there at once")
    return Crowd(guests, took, sum(w.rss for w in weights), sum(w.pss for w in weights))
