# SPDX-License-Identifier: MIT
"""What a run did to its host, from run.json's host_watch (harness/host/state.py)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness.base.status import Status
from harness.record.check import Check
from harness.record.console import Kind

_NAME = "host kernel is clean"


def host_check(record: Mapping[str, Any]) -> Check | None:
    """FAIL for a report of the host's kernel, MISS where the host ran out of memory.

    None where nothing was watched.
    """
    watch = record.get("host_watch")
    if not isinstance(watch, Mapping):
        return None
    if watch.get("kernel_log") != "read":
        return Check(_NAME, Status.SKIP, f"not visible to this user: {watch.get('kernel_log')}")
    splats = [dict(splat) for splat in watch.get("splats", [])]
    ours = [splat for splat in splats if splat.get("kind") != Kind.OOM.value]
    if ours:
        first = f"{ours[0].get('kind')}: {ours[0].get('line')}"
        return Check(_NAME, Status.FAIL, f"{len(ours)} reports, the first: {first}")
    if splats:
        return Check(_NAME, Status.MISS, f"host out of memory: {splats[0].get('line')}")
    return Check(_NAME, Status.PASS, "no panic, oops, warning, lockup, stall or OOM kill")
