# SPDX-License-Identifier: MIT
"""Instructions by function: QEMU's plugin says how many, the guest names the addresses."""

from __future__ import annotations

from pathlib import Path

from harness.analysis.functions import FILE, by_function, parse_counts
from harness.guest.guest import Guest
from harness.record.rundir import write_json

_MAX_KALLSYMS = 64 << 20
_DEADLINE_S = 120.0


def save_functions(guest: Guest, run_dir: Path) -> None:
    """Write functions.json. Raises PreconditionError where nothing was counted."""
    with (run_dir / "qemu.log").open(encoding="utf-8", errors="replace") as lines:
        addresses, counts = parse_counts(lines)
    names = guest.run("cat /proc/kallsyms", max_output=_MAX_KALLSYMS, deadline_s=_DEADLINE_S).text
    found = by_function(addresses, counts, names)
    total = sum(function.instructions for function in found)
    write_json(run_dir / FILE, {"instructions": total, "functions": found})
