# SPDX-License-Identifier: MIT
"""The kernel's own histograms are read as it prints them, or refused."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.base.status import PreconditionError
from harness.record.histogram import parse_hist

HEAD = (
    "# event histogram\n#\n# trigger info: hist:keys={field}.log2:vals=hitcount,units,{field}:"
    "sort=hitcount:size=256 [paused]\n#\n\n"
)


def text(field: str, rows: dict[int, tuple[int, int]], dropped: int = 0) -> str:
    lines = [
        f"{{ {field}: ~ 2^{power:<2} }} hitcount: {hits:>10}  units: {units:>10}  "
        f"{field}: {hits << power:>10}\n"
        for power, (hits, units) in sorted(rows.items(), key=lambda row: row[1])
    ]
    total = sum(hits for hits, _ in rows.values())
    end = f"\nTotals:\n    Hits: {total}\n    Entries: {len(rows)}\n    Dropped: {dropped}\n"
    return HEAD.format(field=field) + "".join(lines) + end


rows = st.dictionaries(
    st.integers(0, 60), st.tuples(st.integers(1, 1 << 40), st.integers(0, 1 << 40)), max_size=30
)


@given(rows, rows)
def test_both_histograms_come_back(
    one: dict[int, tuple[int, int]], two: dict[int, tuple[int, int]]
) -> None:
    found = parse_hist(text("duration_ns", one) + "\n\n" + text("wait_ns", two, dropped=3))
    for histogram, expected in zip(found, (one, two), strict=True):
        assert histogram.total == sum(hits for hits, _ in expected.values())
        assert histogram.sums.get("units", 0) == sum(units for _, units in expected.values())
        assert list(histogram.upper) == sorted(1 << power for power in expected)
    assert [histogram.dropped for histogram in found] == [0, 3]


def test_percentiles_are_upper_ends_of_buckets() -> None:
    (found,) = parse_hist(text("duration_ns", {3: (90, 0), 5: (9, 0), 10: (1, 0)}))
    assert [found.at_most(p) for p in (50, 90, 95, 99, 99.5, 100)] == [8, 8, 32, 32, 1024, 1024]


@pytest.mark.parametrize("lost", ["Hits: 99", "Entries: 2", "Totals:"])
def test_counts_that_do_not_add_up_are_refused(lost: str) -> None:
    whole = text("duration_ns", {3: (90, 0), 5: (9, 0)})
    assert lost in whole
    with pytest.raises(PreconditionError):
        parse_hist(whole.replace(lost, lost.replace("9", "8").replace("2", "3").replace("T", "t")))


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused(noise: str) -> None:
    with contextlib.suppress(PreconditionError):
        parse_hist(noise)
