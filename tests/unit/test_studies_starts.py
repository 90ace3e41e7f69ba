# SPDX-License-Identifier: MIT
"""The harness's measurements of itself, as far as they need no guest."""

from harness.studies.starts import Way


def test_a_way_has_the_median_of_what_was_measured_and_nothing_else() -> None:
    way = Way("restore")
    for value in (3.0, 1.0, 100.0):
        way.add("first_command", value)
    assert way.median_ns("first_command") == 3.0
    assert way.median_ns("done") is None
