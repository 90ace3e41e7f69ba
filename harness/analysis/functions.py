# SPDX-License-Identifier: MIT
"""Where a workload's instructions went, by kernel function. guest-images/tcg-plugin/functions.c
counts whole blocks: one that a page fault interrupts is counted as run, and its rest once more."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from harness.base.reader import FileType
from harness.base.status import PreconditionError
from harness.record.run import recorded

FILE = "functions.json"
USERSPACE = "(userspace)"
UNNAMED = "(unnamed)"
_KERNEL = 1 << 63
_FIRST = re.compile(r"@functions (\d{1,9})")
_BLOCK = re.compile(r"@([0-9a-f]{1,16}) (\d{1,19})")
_SYMBOL = re.compile(r"([0-9a-f]{16}) [tTwW] (\S{1,200})(?:\t.*)?")

Numbers = npt.NDArray[np.uint64]


class FunctionCost(FileType, frozen=True):
    """Instructions executed in one function, those it called not included."""

    name: str
    instructions: int


def parse_counts(lines: Iterable[str]) -> tuple[Numbers, Numbers]:
    """Addresses of blocks and the instructions executed in them: the last whole count in `lines`,
    as counts grow. Raises PreconditionError where there is none, or one that is damaged."""
    found: tuple[list[int], list[int]] | None = None
    addresses: list[int] = []
    counts: list[int] = []
    expected = -1
    for line in lines:
        text = line.rstrip("\n")
        if first := _FIRST.fullmatch(text):
            expected, addresses, counts = int(first[1]), [], []
        elif expected >= 0 and (block := _BLOCK.fullmatch(text)):
            addresses.append(int(block[1], 16))
            counts.append(int(block[2]))
        elif expected >= 0 and text == "@end":
            if len(addresses) != expected:
                raise PreconditionError(f"{len(addresses)} blocks counted where {expected} ran")
            found, expected = (addresses, counts), -1
        elif expected >= 0 and text.startswith("@"):
            raise PreconditionError(f"unreadable count of instructions: {text[:100]!r}")
    if found is None:
        raise PreconditionError(
            "QEMU's plugin counted nothing: no worker of the workload ran between its marks",
            hint="--by-function is for workloads of the harness, not for stress-ng or lkvs",
        )
    return np.array(found[0], np.uint64), np.array(found[1], np.uint64)


def by_function(addresses: Numbers, counts: Numbers, kallsyms: str) -> tuple[FunctionCost, ...]:
    """The counts by function, dearest first. Raises PreconditionError where the guest's `kallsyms`
    has no kernel text."""
    symbols = sorted(
        (int(match[1], 16), match[2])
        for match in map(_SYMBOL.fullmatch, kallsyms.splitlines())
        if match and int(match[1], 16) >= _KERNEL
    )
    if not symbols:
        raise PreconditionError("the guest's kallsyms names no function")
    starts = np.array([address for address, _ in symbols], np.uint64)
    at = np.searchsorted(starts, addresses, side="right")
    totals: Counter[str] = Counter()
    for index, address, count in zip(at.tolist(), addresses.tolist(), counts.tolist(), strict=True):
        kernel = symbols[index - 1][1] if index else UNNAMED
        name = USERSPACE if address < _KERNEL else kernel
        totals[name] += count
    ranked = sorted(totals.items(), key=lambda item: (-item[1], item[0]))
    return tuple(FunctionCost(name, count) for name, count in ranked)


class _File(FileType, frozen=True):
    functions: tuple[FunctionCost, ...]
    instructions: int = 0


def read_functions(run_dir: Path) -> tuple[FunctionCost, ...]:
    """What a run recorded; empty where it did not count. Raises PreconditionError."""
    found = recorded(run_dir / FILE, _File)
    return found.functions if found else ()


@dataclass(frozen=True)
class FunctionChange:
    """One function in two arms: instructions of a run, on average."""

    name: str
    a: float
    b: float

    @property
    def more(self) -> float:
        return self.b - self.a


def changes(
    a: Sequence[tuple[FunctionCost, ...]], b: Sequence[tuple[FunctionCost, ...]]
) -> tuple[FunctionChange, ...]:
    """What changed from arm A's runs to arm B's, most first; empty unless all runs have counts."""
    if not a or not b or not all((*a, *b)):
        return ()
    totals: tuple[Counter[str], Counter[str]] = Counter(), Counter()
    for arm, total in zip((a, b), totals, strict=True):
        for cost in itertools.chain(*arm):
            total[cost.name] += cost.instructions
    found = (
        FunctionChange(name, totals[0][name] / len(a), totals[1][name] / len(b))
        for name in {*totals[0], *totals[1]}
    )
    moved = (change for change in found if change.more)
    return tuple(sorted(moved, key=lambda change: (-abs(change.more), change.name)))
