# SPDX-License-Identifier: MIT
"""Runs as JUnit XML, and the properties that pytest's own JUnit XML gets for each guest.

FAIL is a `failure`; ERROR and MISS are an `error`, of that type: neither says anything about the
kernel.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Sequence

from harness.analysis.metrics import METRICS, metrics_of
from harness.results.view import RunView
from harness.status import Status
from harness.vm.text import inert

_ERRORS = (Status.ERROR.value, Status.MISS.value)


def properties(run: RunView) -> list[tuple[str, str]]:
    """What a run was of and what it came to, as names and values."""
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


def junit(runs: Sequence[RunView]) -> bytes:
    """The document: a suite a run, a case a check, and one for the run as a whole."""
    root = ET.Element("testsuites", name="cvm-harness")
    for run in runs:
        _suite(root, run)
    ET.indent(root)
    return bytes(ET.tostring(root, encoding="utf-8", xml_declaration=True)) + b"\n"


def _suite(root: ET.Element, run: RunView) -> None:
    cases = [(_text(c.get("name")), c.get("status"), _text(c.get("detail"))) for c in run.checks]
    cases.append(("verdict", run.status.value, run.text("cause")))
    statuses = [status for _, status, _ in cases]
    suite = ET.SubElement(
        root,
        "testsuite",
        name=inert(run.id),
        tests=str(len(cases)),
        failures=str(statuses.count(Status.FAIL.value)),
        errors=str(sum(statuses.count(status) for status in _ERRORS)),
        skipped=str(statuses.count(Status.SKIP.value)),
        time=f"{run.duration_s or 0:.3f}",
        timestamp=run.text("started_utc"),
    )
    listed = ET.SubElement(suite, "properties")
    for name, value in properties(run):
        ET.SubElement(listed, "property", name=name, value=value)
    for name, status, detail in cases:
        case = ET.SubElement(
            suite, "testcase", classname=f"cvm.{run.workload_name or 'boot'}", name=name
        )
        if status == Status.SKIP.value:
            ET.SubElement(case, "skipped", message=detail)
        elif status == Status.FAIL.value:
            ET.SubElement(case, "failure", type="FAIL", message=detail).text = detail
        elif status in _ERRORS:
            ET.SubElement(case, "error", type=str(status), message=detail).text = detail
        else:
            ET.SubElement(case, "system-out").text = detail


def _text(value: object) -> str:
    return inert(value) if isinstance(value, str) else ""
