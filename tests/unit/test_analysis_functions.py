# SPDX-License-Identifier: MIT
"""Instructions by function, from what QEMU's plugin says and the guest's kallsyms."""

import contextlib
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.analysis.functions import (
    FILE,
    UNNAMED,
    USERSPACE,
    FunctionChange,
    FunctionCost,
    by_function,
    changes,
    parse_counts,
    read_functions,
)
from harness.base.status import PreconditionError

KALLSYMS = """\
0000000000000000 A fixed_percpu_data
ffffffff81000000 T _text
ffffffff81000100 t accept_memory
ffffffff81000200 W clear_page_erms
ffffffff81000200 d some_data
ffffffffa0000000 t of_a_module\t[module]
"""
SAID = """\
qemu-system-x86_64: warning: something else
@functions 1
@ffffffff81000100 7
@end
@functions 4
@ffffffff81000104 30
@ffffffff810001f0 5
@ffffffff81000280 100
@401000 9
@end
"""


def test_the_last_count_is_taken_and_named() -> None:
    found = by_function(*parse_counts(SAID.splitlines(keepends=True)), KALLSYMS)
    assert found == (
        FunctionCost("clear_page_erms", 100),
        FunctionCost("accept_memory", 35),
        FunctionCost(USERSPACE, 9),
    )


def test_code_below_the_first_symbol_has_no_name() -> None:
    addresses, counts = parse_counts(["@functions 1", "@ffffffff80000000 3", "@end"])
    assert by_function(addresses, counts, KALLSYMS) == (FunctionCost(UNNAMED, 3),)


@pytest.mark.parametrize(
    "said",
    [
        "",
        "@functions 1\n@ffffffff81000100 7\n",  # QEMU was killed meanwhile
        "@functions 2\n@ffffffff81000100 7\n@end\n",
        "@functions 1\n@ffffffff81000100 -7\n@end\n",
    ],
)
def test_a_count_that_is_not_whole_is_refused(said: str) -> None:
    with pytest.raises(PreconditionError):
        parse_counts(said.splitlines())


def test_kallsyms_without_text_is_refused() -> None:
    with pytest.raises(PreconditionError, match="no function"):
        by_function(*parse_counts(SAID.splitlines()), "0000000000000000 t accept_memory\n")


@given(st.lists(st.text(alphabet="@functionsed 0123456789af\n", max_size=40), max_size=20))
def test_any_text_is_read_or_refused(lines: list[str]) -> None:
    with contextlib.suppress(PreconditionError):
        addresses, counts = parse_counts(lines)
        assert len(addresses) == len(counts)


def test_what_changed_most_comes_first() -> None:
    before = [(FunctionCost("a", 10), FunctionCost("b", 100))] * 2
    after = [(FunctionCost("a", 10), FunctionCost("b", 90), FunctionCost("c", 30))]
    assert changes(before, after) == (
        FunctionChange("c", 0, 30),
        FunctionChange("b", 100, 90),
    )
    assert changes(before, [()]) == ()


def test_a_damaged_record_is_an_error(tmp_path: Path) -> None:
    assert read_functions(tmp_path) == ()
    content = {"functions": [{"name": "a", "instructions": 3}]}
    (tmp_path / FILE).write_text(json.dumps(content))
    assert read_functions(tmp_path) == (FunctionCost("a", 3),)
    (tmp_path / FILE).write_text("{}")
    with pytest.raises(PreconditionError, match=FILE):
        read_functions(tmp_path)
