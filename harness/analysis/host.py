# SPDX-License-Identifier: MIT
"""What a run did to its host, from run.json's host_watch (harness/host/state.py)."""

from __future__ import annotations

from harness.base.status import Status
from harness.record.check import Check
from harness.record.console import Kind
from harness.record.run import HostRecord

_NAME = "host kernel is clean"


def host_check(watch: HostRecord | None) -> Check | None:
    """FAIL for a report of the host's kernel, MISS where the host ran out of memory.

    None where nothing was watched.
    """
    if watch is None:
        return None
    if watch.kernel_log != "read":
        return Check(_NAME, Status.SKIP, f"not visible to this user: {watch.kernel_log}")
    ours = [splat for splat in watch.splats if splat.kind != Kind.OOM]
    if ours:
        first = f"{ours[0].kind}: {ours[0].line}"
        return Check(_NAME, Status.FAIL, f"{len(ours)} reports, the first: {first}")
    if watch.splats:
        return Check(_NAME, Status.MISS, f"host out of memory: {watch.splats[0].line}")
    return Check(_NAME, Status.PASS, "no panic, oops, warning, lockup, stall or OOM kill")
