# SPDX-License-Identifier: MIT
"""What two well-known rules of thumb would have said, to be read beside the verdict."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from harness.compare.statistics import Arms

LKVS_FACTOR = 1.15
"""LKVS' tdx_mem_test.sh fails a run above this times a constant edited by hand."""


@dataclass(frozen=True)
class Opinion:
    """One rule's answer."""

    rule: str
    says: str


def opinions(arms: Arms, *, higher_is_better: bool = False) -> tuple[Opinion, ...]:
    """LKP's and LKVS' answers for the same runs."""
    return (_lkp(arms, higher_is_better), _lkvs(arms, higher_is_better))


def _lkp(arms: Arms, higher_is_better: bool) -> Opinion:
    above, below = arms.b.min() > arms.a.max(), arms.b.max() < arms.a.min()
    if not (above or below):
        says = "no change: the ranges overlap"
    else:
        says = "regressed" if above != higher_is_better else "improved"
        says += ": the ranges do not overlap"
    return Opinion("LKP, non-overlap of ranges", says)


def _lkvs(arms: Arms, higher_is_better: bool) -> Opinion:
    """A's median stands for the constant."""
    constant = float(np.median(arms.a))
    if higher_is_better:
        failed = int(np.sum(arms.b < constant / LKVS_FACTOR))
    else:
        failed = int(np.sum(arms.b > constant * LKVS_FACTOR))
    return Opinion(
        f"LKVS, one run against {LKVS_FACTOR} × a constant",
        f"{failed} of {arms.b.size} runs would fail",
    )
