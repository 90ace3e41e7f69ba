# SPDX-License-Identifier: MIT
"""The harness's measurements of itself, as far as they need no guest."""

from __future__ import annotations

import pytest

from harness.base.status import PreconditionError
from harness.studies.crowd import parse_rollup
from harness.studies.starts import Way


def test_memory_of_a_process_is_read_whole_or_not_at_all() -> None:
    text = (
        "55d4-7ffc ---p 00000000 00:00 0 [rollup]\n"
        "Rss:              153600 kB\nPss:               51200 kB\nPss_Anon:           1 kB\n"
    )
    assert parse_rollup(text) == (153_600 * 1024, 51_200 * 1024)
    with pytest.raises(PreconditionError):
        parse_rollup("Rss: 12 kB\n")


def test_a_way_has_the_median_of_what_was_measured_and_nothing_else() -> None:
    way = Way("restore")
    for value in (3.0, 1.0, 100.0):
        way.add("first_command", value)
    assert way.median_ns("first_command") == 3.0
    assert way.median_ns("done") is None
