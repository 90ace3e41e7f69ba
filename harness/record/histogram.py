# SPDX-License-Identifier: MIT
"""Histograms of the guest's programs (guest-images/minimal/src/histogram.h: a bucket is never wider
than 2^-sub_bucket_bits of its lowest value), and the kernel's own in hist.txt (hist_trigger_show(),
kernel/trace/trace_events_hist.c, 6.12 and 7.3: the key 2^n has those above 2^(n-1), up to 2^n)."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
import numpy.typing as npt

from harness.base.status import PreconditionError

_VALUE_BITS = 64
_Number = Annotated[int, msgspec.Meta(ge=0, lt=1 << 53)]


@dataclass(frozen=True)
class Histogram:
    """Counts per bucket index, ascending. Values are nanoseconds where the maker does not say."""

    sub_bucket_bits: int
    indexes: npt.NDArray[np.int64]
    counts: npt.NDArray[np.int64]

    @property
    def total(self) -> int:
        return int(self.counts.sum())

    def bounds(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """The lowest value and the width of each bucket. Floats hold whole numbers below 2^53
        exactly: 104 days in ns."""
        bits = self.sub_bucket_bits
        shift = np.maximum((self.indexes >> bits) - 1, 0)
        width = np.exp2(shift.astype(np.float64))
        return (self.indexes - (shift << bits)) * width, width

    def percentiles(self, percents: Sequence[float]) -> npt.NDArray[np.float64]:
        """The middle of the bucket that holds each percentile (numpy's "inverted_cdf"). Raises
        PreconditionError if nothing was recorded."""
        if self.total == 0:
            raise PreconditionError("a percentile of an empty histogram")
        ranks = np.ceil(np.asarray(percents, dtype=np.float64) / 100 * self.total)
        at = np.searchsorted(np.cumsum(self.counts), np.maximum(ranks, 1))
        lowest, width = self.bounds()
        return np.asarray((lowest + (width - 1) / 2)[at])


def merge(histograms: Sequence[Histogram]) -> Histogram:
    """The histogram of all values of `histograms`, which must have the same bucket size."""
    bits = {histogram.sub_bucket_bits for histogram in histograms}
    if len(bits) != 1:
        raise PreconditionError(f"cannot merge histograms of {sorted(bits)} sub-bucket bits")
    every = np.concatenate([histogram.indexes for histogram in histograms])
    indexes, where = np.unique(every, return_inverse=True)
    counts = np.zeros(len(indexes), dtype=np.int64)
    np.add.at(counts, where, np.concatenate([histogram.counts for histogram in histograms]))
    return Histogram(bits.pop(), indexes, counts)


def histogram_of(values: npt.NDArray[np.int64], sub_bucket_bits: int) -> Histogram:
    """The histogram of non-negative values below 2^53, encoded as guest programs do it."""
    # frexp: value = mantissa * 2^exponent with the mantissa in [0.5, 1), so floor(log2) + 1.
    top = np.frexp(values.astype(np.float64))[1].astype(np.int64) - 1
    shift = np.maximum(top - sub_bucket_bits, 0)
    indexes, counts = np.unique((shift << sub_bucket_bits) + (values >> shift), return_counts=True)
    return Histogram(sub_bucket_bits, indexes, counts.astype(np.int64))


class _Message(msgspec.Struct, frozen=True):
    sub_bucket_bits: Annotated[int, msgspec.Meta(ge=0, le=16)]
    counts: list[tuple[_Number, _Number]]


def parse_histogram(message: Any) -> Histogram:
    """From the JSON in a guest program's report, which is untrusted. Raises PreconditionError."""
    try:
        found = msgspec.convert(message, _Message)
    except msgspec.ValidationError as error:
        raise PreconditionError(f"not a histogram: {error}") from error
    bits = found.sub_bucket_bits
    indexes, counts = np.array(found.counts, dtype=np.int64).reshape(-1, 2).T
    if np.any(np.diff(indexes) <= 0) or np.any(indexes >= (_VALUE_BITS - bits + 1) << bits):
        raise PreconditionError("a histogram's indexes are out of order or range")
    if np.any(counts == 0):
        raise PreconditionError("a histogram counts empty buckets")
    return Histogram(bits, indexes, counts)


HIST_FILE = "hist.txt"
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
    path = run_dir / HIST_FILE
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
