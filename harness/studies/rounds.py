# SPDX-License-Identifier: MIT
"""Arms in turn, and what they gave as one table. Repeats are outside and arms inside, so that a
host that slows down slows all arms alike."""

import enum
import random
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from rich import box
from rich.table import Table

from harness.report.terminal import columns

ArmType = TypeVar("ArmType")


class Order(enum.Enum):
    SAME = "same"
    ALTERNATING = "alternating"
    """Every other round backwards: no arm always follows the same one."""
    RANDOM = "random"


def rounds(
    arms: Sequence[ArmType], repeats: int, order: Order = Order.SAME, seed: int = 0
) -> Iterator[tuple[int, list[ArmType]]]:
    """(number from 1, arms in their order) of each round. `seed` is that of a random order."""
    generator = random.Random(seed)
    for number in range(1, repeats + 1):
        block = list(arms)
        if order is Order.RANDOM:
            generator.shuffle(block)
        elif order is Order.ALTERNATING and number % 2 == 0:
            block.reverse()
        yield number, block


def arms_table(
    title: str,
    arms: Sequence[ArmType],
    name: Callable[[ArmType], str],
    rows: Sequence[tuple[str, Callable[[ArmType], str]]],
    *,
    markdown: bool = False,
) -> Table:
    made = columns(
        title,
        ["", *map(name, arms)],
        [(figure, *(value(arm) for arm in arms)) for figure, value in rows],
    )
    if markdown:
        made.box, made.title = box.MARKDOWN, None
    return made
