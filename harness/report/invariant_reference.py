# SPDX-License-Identifier: MIT
"""docs/invariants.md out of the table: python -m harness.report.invariant_reference."""

from __future__ import annotations

import textwrap

from harness.analysis.invariants import INVARIANTS, Invariant
from harness.record.console import Kind

_HEAD = """<!-- Made by `python -m harness.report.invariant_reference > docs/invariants.md`: edit
harness/analysis/invariants.py instead. -->

# What is checked on every run

Each guest is read when it is ready and again after the workload, when nothing is allocating;
around each test of the suite it is read and its trace is cut ([suite.md](suite.md)). What was not
recorded is not judged, and a check that has nothing to look at is ERROR, never PASS.

"""
_TABLE = """
*Asked of*: whole *runs*, from the run directory alone (`cvm-harness run`, `analyse`); *windows*,
one around each test of the suite; *boots*, by the tests that judge them. The *signal* is what a
failure is called in verdicts and expectations.

| | invariant | signal | where | asked of | judged by (`harness/analysis/`) |
|---|---|---|---|---|---|
"""
_TAIL = """
A workload that has a verdict of its own (`lkvs`) and the tests of the suite check more; see
[workloads.md](workloads.md) and [suite.md](suite.md).

## At length

A guest larger than its host is drained without being touched: 64 GiB give some 16,000 accept
events. Every one has to be there, and events, table and back end have to agree to the unit, with
the guards of what is left:

```sh
cvm-harness run drain --memory 64G --vcpus 4 --workers 4 --leave 8G -v
pytest tests/guest/test_workloads.py -k larger_than_its_host
```

With a trace buffer that is too small the losses are counted and shown, and number 7 is ERROR,
whatever else holds; so is the run:

```sh
cvm-harness run drain --memory 4G --trace-buffer 4
```
"""


def reference() -> str:
    """The page."""
    numbered = list(enumerate(INVARIANTS, start=1))
    items = (_item(*item) for item in numbered)
    return "".join([_HEAD, *items, _TABLE, *(_row(*item) for item in numbered), _TAIL])


def _item(number: int, row: Invariant) -> str:
    text = f"{number}. **{row.name}.** {row.compares}"
    return textwrap.fill(text, 110, subsequent_indent="   ", break_on_hyphens=False) + "\n"


def _row(number: int, row: Invariant) -> str:
    signals = ", ".join(f"`{signal}`" for signal in row.signals)
    if set(row.signals) == set(Kind):
        signals = "the kind of report (`oops`, `warn`, …)"
    asked = ", ".join(scope.value for scope in row.scopes)
    functions = ", ".join(
        f"`{function.__module__.rpartition('.')[2]}.{function.__name__}`"
        for function in row.judged_by
    )
    return f"| {number} | {row.name} | {signals or '–'} | {row.where} | {asked} | {functions} |\n"


if __name__ == "__main__":
    print(reference(), end="")
