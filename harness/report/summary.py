# SPDX-License-Identifier: MIT
"""One run's figures as rows: what was run, on what, what it cost."""

from __future__ import annotations

from harness.base.units import PAGE_SIZE, format_ns, format_size
from harness.record.boot import BootRecord
from harness.run.session import Prepared

Rows = list[tuple[str, str]]


def prepared_rows(prepared: Prepared) -> Rows:
    spec, host = prepared.spec, prepared.host
    return [
        ("target", f"{spec.target.value}, {prepared.target.platform_words(spec)}"),
        ("accelerator", f"{host.accel.value} ({host.accel_reason})"),
        ("kernel", f"{prepared.kernel.release}, {spec.accept.value} acceptance"),
        ("cost of acceptance", prepared.target.cost_words(spec)),
    ]


def boot_rows(boot: BootRecord) -> Rows:
    unaccepted = ("unaccepted at init", format_size(boot.init.nr_unaccepted_pages * PAGE_SIZE))
    if boot.restored:
        start = ("restored from a snapshot, running", format_ns(boot.since_spawn_ns("restored")))
    else:
        start = ("time to init", format_ns(boot.since_spawn_ns("init")))
    command = ("time to first SSH command", format_ns(boot.since_spawn_ns("first_command")))
    return [unaccepted, start, command]
