# SPDX-License-Identifier: MIT
"""The sampler's stream is read exactly, or refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.base.status import PreconditionError
from harness.collect.sampler import LatestSample
from harness.record.samples import parse_samples

HEADER = "#columns monotonic_ns read_ns vmstat.nr_unaccepted\n"


@given(st.lists(st.tuples(*[st.integers(-1, (1 << 63) - 1)] * 3), max_size=30), st.integers(0, 9))
def test_what_was_sent_is_what_is_read(rows: list[tuple[int, int, int]], missed: int) -> None:
    stream = HEADER + "".join(" ".join(map(str, row)) + "\n" for row in rows)
    end = f"#end samples={len(rows)} missed={missed} cpu_ns=7 reason=stdin\n"
    samples = parse_samples((stream + end).splitlines(keepends=True))
    assert samples.values.tolist() == [list(row) for row in rows]
    assert samples.missed == missed
    assert samples.complete
    assert samples.column("vmstat.nr_unaccepted").tolist() == [row[2] for row in rows]


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        samples = parse_samples((HEADER + text).splitlines(keepends=True))
    except PreconditionError:
        return
    assert samples.values.shape[1] == 3


@given(st.integers(1, 40))
def test_a_cut_off_stream_says_so_and_never_invents_a_number(cut: int) -> None:
    stream = HEADER + "100 5 2048\n200 5 1024\n#end samples=2 missed=0 cpu_ns=7 reason=stdin\n"
    samples = parse_samples(stream[:-cut].splitlines(keepends=True))
    assert not samples.complete
    assert set(samples.column("vmstat.nr_unaccepted").tolist()) <= {1024, 2048}


FULL = "#columns monotonic_ns read_ns missed full vmstat.nr_unaccepted vmstat.pgscan\n"
END = "#end samples={} missed=0 cpu_ns=7 reason=stdin\n"


def test_a_short_sample_repeats_what_it_did_not_read() -> None:
    stream = FULL + "1 5 0 1 30 7\n2 5 0 0 20\n3 5 0 0 10\n4 5 0 1 10 9\n" + END.format(4)
    samples = parse_samples(stream.splitlines(keepends=True))
    assert samples.column("vmstat.nr_unaccepted").tolist() == [30, 20, 10, 10]
    assert samples.column("vmstat.pgscan").tolist() == [7, 7, 7, 9]


@pytest.mark.parametrize("row", ["2 5 0 0", "2 5 0 1 20", "2 5", "2 5 0 0 20 1 1"])
def test_a_sample_that_is_neither_short_nor_full_is_refused(row: str) -> None:
    with pytest.raises(PreconditionError):
        parse_samples((FULL + "1 5 0 1 30 7\n" + row + "\n").splitlines(keepends=True))
    with pytest.raises(PreconditionError):
        parse_samples((FULL + "2 5 0 0 20\n").splitlines(keepends=True))  # nothing to repeat


@pytest.mark.parametrize(
    "stream",
    [
        HEADER + "1 2\n",
        HEADER + "1 2 3 4\n",
        HEADER + "1 2 x\n",
        HEADER + HEADER,
        "#columns a a\n",
        "#columns \x1b[31m\n",
        "1 2 3\n",
        HEADER + "1 2 99999999999999999999\n",
        HEADER + "1 2 3\n#end samples=7 missed=0 cpu_ns=7 reason=stdin\n",
        HEADER + "#end samples=0 missed=0 cpu_ns=7 reason=stdin\n1 2 3\n",
    ],
)
def test_what_does_not_fit_is_refused(stream: str) -> None:
    with pytest.raises(PreconditionError):
        parse_samples(stream.splitlines(keepends=True))


@given(st.lists(st.integers(1, 40), max_size=30), st.binary(max_size=60))
def test_the_newest_count_is_told_however_the_stream_is_cut(cuts: list[int], junk: bytes) -> None:
    head = b"#columns monotonic_ns read_ns missed full vmstat.nr_free_pages vmstat.nr_unaccepted\n"
    stream = head + b"".join(b"%d 1 0 1 9 %d\n" % (n, 5000 - n) for n in range(20))
    told: list[int] = []
    newest = LatestSample(told.append)
    for cut in cuts:
        newest.feed(stream[:cut])
        stream = stream[cut:]
    newest.feed(stream)
    assert told[-1] == 4981
    assert told == sorted(told, reverse=True)
    newest.feed(junk)  # whatever the guest sends, it is passed over or a number


def test_a_kernel_that_does_not_count_tells_nothing() -> None:
    told: list[int] = []
    newest = LatestSample(told.append)
    newest.feed(b"#columns monotonic_ns read_ns missed full vmstat.nr_free_pages\n1 1 0 1 9\n")
    newest.feed(b"no samples\n" * 3)
    assert told == []
