# SPDX-License-Identifier: MIT
"""`cvm-harness doctor`: what this machine can run, and how to mend what it cannot."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console

from harness.base.options import choice
from harness.base.spec import TargetName
from harness.base.status import Status
from harness.cli.common import leave, print_json
from harness.cli.options import PATH, json_option
from harness.record.rundir import plain
from harness.report import terminal

if TYPE_CHECKING:
    from harness.targets.doctor import Diagnosis

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
    type=PATH,
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
        print_json(as_data(diagnosis))
    else:
        _show(out, diagnosis)
    if report:
        from harness.host.state import write_bundle

        write_bundle(report, view, as_data(diagnosis), runs)
        err.print(f"written: {report} (look through it before you send it)", markup=False)
    leave(diagnosis.status)


def as_data(diagnosis: Diagnosis) -> dict[str, object]:
    """The diagnosis for machines; each finding names the target that asked."""
    return {
        "status": diagnosis.status,
        "summary": diagnosis.summary,
        "targets": {
            section.target.value: {"status": section.status, "summary": section.summary}
            for section in diagnosis.sections
        },
        "findings": [
            {"target": section.target, **plain(finding)}
            for section in diagnosis.sections
            for finding in section.findings
        ],
    }


def _show(out: Console, diagnosis: Diagnosis) -> None:
    for section in diagnosis.sections:
        for found in section.findings:
            words = f" {section.target.value}: {found.category}: {found.name}: {found.evidence}"
            out.print(terminal.status_text(found.status).append(words, style="none"))
            if found.hint and found.status is not Status.PASS:
                out.print(f"     fix: {found.hint}", markup=False)
    for section in diagnosis.sections:
        out.print(section.summary, markup=False)
