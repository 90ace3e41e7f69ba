# SPDX-License-Identifier: MIT
"""A run's inputs and figures as names and values: the properties of JUnit XML, pytest's too."""

from __future__ import annotations

from harness.analysis.metrics import METRICS, metrics_of
from harness.record.view import RunView


def properties(run: RunView) -> list[tuple[str, str]]:
    facts = [
        ("run", run.id),
        ("target", run.text("spec", "target")),
        ("kernel", run.text("kernel", "release")),
        ("kernel_digest", run.text("kernel", "digest")),
        ("accel", run.text("accel", "name")),
        ("qemu", run.text("qemu", "version")),
        ("accept", run.text("spec", "accept")),
        ("memory_bytes", run.text("spec", "memory")),
        ("vcpus", run.text("spec", "vcpus")),
        ("cost_model", run.text("cost_model")),
        ("workload", run.workload_name),
    ]
    values = metrics_of(run)
    facts += [(m.name, f"{values[m.name]:.17g}") for m in METRICS if m.name in values]
    return [(name, value) for name, value in facts if value]
