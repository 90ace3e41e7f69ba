# SPDX-License-Identifier: MIT
"""Arms in turn: each as often as the others, in the order that was asked for."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.studies.rounds import Order, arms_table, rounds


@given(
    st.lists(st.integers(), unique=True, max_size=5),
    st.integers(0, 6),
    st.sampled_from(Order),
    st.integers(),
)
def test_every_round_has_every_arm_once(
    arms: list[int], repeats: int, order: Order, seed: int
) -> None:
    found = list(rounds(arms, repeats, order, seed))
    assert [number for number, _ in found] == list(range(1, repeats + 1))
    assert all(Counter(turn) == Counter(arms) for _, turn in found)
    assert found == list(rounds(arms, repeats, order, seed))


def test_orders() -> None:
    assert [turn for _, turn in rounds("ab", 3)] == [["a", "b"]] * 3
    assert [turn for _, turn in rounds("ab", 3, Order.ALTERNATING)] == [
        ["a", "b"],
        ["b", "a"],
        ["a", "b"],
    ]
    drawn = {tuple(turn) for _, turn in rounds("ab", 30, Order.RANDOM, seed=1)}
    assert drawn == {("a", "b"), ("b", "a")}


@pytest.mark.parametrize("markdown", [False, True])
def test_a_table_has_a_column_an_arm(markdown: bool) -> None:
    made = arms_table(
        "t", [1, 2], lambda a: f"arm {a}", [("twice", lambda a: str(2 * a))], markdown=markdown
    )
    assert [str(column.header) for column in made.columns] == ["", "arm 1", "arm 2"]
    cells = [[str(cell) for cell in column.cells] for column in made.columns]
    assert cells == [["twice"], ["2"], ["4"]]
    assert (made.title is None) is markdown
