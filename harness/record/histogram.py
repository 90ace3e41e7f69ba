# SPDX-License-Identifier: MIT
"""Latency histograms as the guest's programs print them: log-linear buckets, sparse counts.

guest-images/minimal/src/histogram.h defines the encoding; this is its inverse. A bucket is never
wider than 2^-sub_bucket_bits of its lowest value, which bounds the error of every percentile.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
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
        """The lowest value and the width of each bucket.

        As floats, which hold whole numbers below 2^53 exactly: 104 days in nanoseconds.
        """
        bits = self.sub_bucket_bits
        shift = np.maximum((self.indexes >> bits) - 1, 0)
        width = np.exp2(shift.astype(np.float64))
        return (self.indexes - (shift << bits)) * width, width

    def percentiles(self, percents: Sequence[float]) -> npt.NDArray[np.float64]:
        """The middle of the bucket that holds each percentile: the smallest value that at least
        that share of all values does not exceed (numpy's "inverted_cdf").

        Raises PreconditionError if nothing was recorded.
        """
        if self.total == 0:
            raise PreconditionError("a percentile of an empty histogram")
        ranks = np.ceil(np.asarray(percents, dtype=np.float64) / 100 * self.total)
        at = np.searchsorted(np.cumsum(self.counts), np.maximum(ranks, 1))
        lowest, width = self.bounds()
        return np.asarray((lowest + (width - 1) / 2)[at])

    def mean(self) -> float:
        """The mean of the buckets' middles. A program's own total and count are more exact."""
        lowest, width = self.bounds()
        return float(np.average(lowest + (width - 1) / 2, weights=self.counts))


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
    """A histogram from the JSON object in a guest program's report. Raises PreconditionError.

    Guest output is untrusted: indexes and counts are checked for type, range and order.
    """
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
