# SPDX-License-Identifier: MIT
"""hist.txt: the kernel's own histograms of accept events (tracefs events/*/*/hist).

Format: kernel/trace/trace_events_hist.c, hist_trigger_show(), 6.12 and 7.3. With the log2 modifier
the key 2^n holds the values above 2^(n-1), up to 2^n.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from harness.base.status import PreconditionError

FILE = "hist.txt"
_TRIGGER = re.compile(r"^# trigger info: hist:keys=(\w{1,40})\.log2", re.MULTILINE)
_ROW = re.compile(
    r"^\{ \w{1,40}: ~ 2\^(?P<power>\d{1,2}) *\} hitcount: +(?P<hits>\d{1,19})(?P<rest>.*)$",
    re.MULTILINE,
)
_VALUE = re.compile(r"(\w{1,40}): +(\d{1,19})")
_TOTALS = re.compile(
    r"^Totals:\s+Hits: (\d{1,19})\s+Entries: (\d{1,9})\s+Dropped: (\d{1,19})$", re.MULTILINE
)


@dataclass(frozen=True)
class KernelHistogram:
    """One field's distribution over the powers of two."""

    field: str
    upper: tuple[int, ...]
    """Largest value of each bucket, ascending."""
    hits: tuple[int, ...]
    sums: dict[str, int]
    """Over all buckets: units, and the field itself."""
    dropped: int

    @property
    def total(self) -> int:
        return sum(self.hits)

    def at_most(self, percent: float) -> int:
        """A value that `percent` of the events do not exceed: their bucket's upper end."""
        wanted, seen = percent / 100 * self.total, 0
        for upper, hits in zip(self.upper, self.hits, strict=True):
            seen += hits
            if seen >= wanted:
                return upper
        return self.upper[-1] if self.upper else 0


def read_hist(run_dir: Path) -> tuple[KernelHistogram, ...]:
    """A run's histograms; empty where it has none. Raises PreconditionError."""
    path = run_dir / FILE
    return parse_hist(path.read_text(errors="replace")) if path.exists() else ()


def parse_hist(text: str) -> tuple[KernelHistogram, ...]:
    """All histograms of a hist file. Raises PreconditionError where counts do not add up."""
    pieces = _TRIGGER.split(text)[1:]
    if not pieces:
        raise PreconditionError(f"not a histogram of the kernel: {text[:100]!r}")
    return tuple(_one(field, body) for field, body in zip(pieces[::2], pieces[1::2], strict=True))


def _one(field: str, body: str) -> KernelHistogram:
    rows: list[tuple[int, int]] = []
    sums: dict[str, int] = {}
    for row in _ROW.finditer(body):
        rows.append((1 << int(row["power"]), int(row["hits"])))
        for name, value in _VALUE.findall(row["rest"]):
            sums[name] = sums.get(name, 0) + int(value)
    totals = _TOTALS.search(body)
    if totals is None:
        raise PreconditionError(f"the kernel's histogram of {field} has no totals")
    rows.sort()
    if sum(hits for _, hits in rows) != int(totals[1]) or len(rows) != int(totals[2]):
        raise PreconditionError(f"the kernel's histogram of {field} does not add up")
    return KernelHistogram(
        field,
        tuple(upper for upper, _ in rows),
        tuple(hits for _, hits in rows),
        sums,
        int(totals[3]),
    )
