# SPDX-License-Identifier: MIT
"""What a probe found: one line, its evidence, and the way to mend it."""

from collections.abc import Iterable
from dataclasses import dataclass

from harness.base.status import Status


@dataclass(frozen=True)
class Finding:
    """One probe's answer. MISS: what the category names cannot be had. SKIP: not needed by
    everyone, or not visible to this user; the evidence says which."""

    name: str
    category: str
    status: Status
    evidence: str
    hint: str = ""


def ok(name: str, category: str, evidence: str) -> Finding:
    return Finding(name, category, Status.PASS, evidence)


def missing(name: str, category: str, evidence: str, hint: str) -> Finding:
    """Without this the guest cannot run."""
    return Finding(name, category, Status.MISS, evidence, hint)


def unseen(name: str, category: str, evidence: str, hint: str = "") -> Finding:
    """Could not be looked at, and does not decide anything."""
    return Finding(name, category, Status.SKIP, evidence, hint)


def first_missing(findings: Iterable[Finding]) -> Finding | None:
    """What stands in the way: the first in the order in which a guest needs it."""
    return next((f for f in findings if f.status is Status.MISS), None)
