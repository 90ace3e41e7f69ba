# SPDX-License-Identifier: MIT
"""`cvm-harness doctor`: what this machine can run, and how to mend what it cannot."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console

from harness.base.options import choice
from harness.base.spec import TargetName
from harness.base.status import Status
from harness.cli.options import json_option
from harness.record.rundir import plain
from harness.report import terminal

if TYPE_CHECKING:
    from harness.targets.doctor import Diagnosis, Section

_KVM_PATIENCE_S = 1.0
"""The whole answer is to be there in two seconds."""


@click.command()
@click.option(
    "--target",
    help="emulated, snp or tdx: look only at what this target needs, and exit with 69 if it "
    "cannot run.  [default: all of them]",
)
@click.option(
    "--report",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE.tar.gz",
    help="Also write all answers, and what is worth knowing of the host, to a file to send.",
)
@click.option(
    "--run",
    "runs",
    multiple=True,
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    metavar="DIRECTORY",
    help="Add a run directory to the report: one whose guest failed. May be repeated.",
)
@click.option(
    "--host",
    "recording",
    type=click.Path(path_type=Path),
    metavar="HOST.json",
    help="Look at a recorded host, from a report, instead of this one.",
)
@json_option
def doctor(
    target: str | None,
    report: Path | None,
    runs: tuple[Path, ...],
    recording: Path | None,
    as_json: bool,
) -> None:
    """Say what this machine can run, with the evidence and the way to mend what is missing.

    Ends with one line for each target: whether its guests run here, and how many at a time. Changes
    nothing, and needs no root; what cannot be seen without it is said. PASS: fine. MISS: without
    this the target cannot run. SKIP: not needed, or not visible.
    """
    from harness.base.store import Store
    from harness.host.view import HostView, LiveHost, RecordedHost
    from harness.targets.doctor import diagnose

    out, err = terminal.consoles()
    wanted = choice(TargetName, target, "target") if target else None
    view: HostView = RecordedHost.load(recording) if recording else LiveHost(_KVM_PATIENCE_S)
    diagnosis = diagnose(view, Store().root, wanted)
    if as_json:
        out.print_json(json.dumps(plain(as_data(diagnosis))))
    else:
        show(out, diagnosis)
    if report:
        from harness.host.state import write_bundle

        write_bundle(report, view, as_data(diagnosis), runs)
        err.print(f"written: {report} (look through it before you send it)", markup=False)
    sys.exit(diagnosis.status.exit_code)


def as_data(diagnosis: Diagnosis) -> dict[str, object]:
    """The diagnosis for machines; each finding names the target that asked."""
    findings = [
        {"target": section.target, **plain(finding)}
        for section in diagnosis.sections
        for finding in section.findings
    ]
    targets = {
        section.target.value: {"status": section.status, "summary": section.summary}
        for section in diagnosis.sections
    }
    return {
        "status": diagnosis.status,
        "summary": diagnosis.summary,
        "targets": targets,
        "findings": findings,
    }


def show(out: Console, diagnosis: Diagnosis) -> None:
    """Section by section, then the answers."""
    for section in diagnosis.sections:
        _show_section(out, section)
    for section in diagnosis.sections:
        out.print(section.summary, markup=False)


def _show_section(out: Console, section: Section) -> None:
    for finding in section.findings:
        words = f" {section.target.value}: {finding.category}: {finding.name}: {finding.evidence}"
        out.print(terminal.status_text(finding.status).append(words, style="none"))
        if finding.hint and finding.status is not Status.PASS:
            out.print(f"     fix: {finding.hint}", markup=False)
