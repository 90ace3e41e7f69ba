# SPDX-License-Identifier: MIT
"""A check as run.json, reports and verdicts have it."""

from dataclasses import dataclass

from harness.base.status import Status


@dataclass(frozen=True)
class Check:
    """One check: what was compared, with which result, and the figures to see why."""

    name: str
    status: Status
    detail: str
    signal: str = ""
    """Short fixed word for the reason a failure of it stands for (docs/suite.md)."""


def check(name: str, holds: bool, detail: str, signal: str = "", *, void: str = "") -> Check:
    """PASS or FAIL with the figures that decided it; ERROR where `void` says why they cannot."""
    if void:
        return Check(name, Status.ERROR, f"{void}: {detail}", signal)
    return Check(name, Status.PASS if holds else Status.FAIL, detail, signal)
