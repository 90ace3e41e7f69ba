# SPDX-License-Identifier: MIT
"""Runs as JUnit XML: FAIL is a `failure`; ERROR and MISS, which say nothing of the kernel,
`error`."""

import xml.etree.ElementTree as ET
from collections.abc import Sequence

from harness.analysis.metrics import properties
from harness.base.status import Status
from harness.base.text import inert
from harness.record.view import CheckText, RunView

_ERRORS = (Status.ERROR.value, Status.MISS.value)


def junit(runs: Sequence[RunView]) -> bytes:
    """The document: a suite a run, a case a check, and one for the run as a whole."""
    root = ET.Element("testsuites", name="cvm-harness")
    for run in runs:
        _suite(root, run)
    ET.indent(root)
    return bytes(ET.tostring(root, encoding="utf-8", xml_declaration=True)) + b"\n"


def _suite(root: ET.Element, run: RunView) -> None:
    cases = [*run.checks, CheckText("verdict", run.status.value, run.text("cause"))]
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
            ET.SubElement(case, "error", type=status, message=detail).text = detail
        else:
            ET.SubElement(case, "system-out").text = detail
