# SPDX-License-Identifier: MIT
"""The parts of docs/ that are made of the code's tables (python -m harness.report.reference): they
stand between two marks of a page, the first of which names the part."""

import re
import textwrap
from collections.abc import Iterable
from pathlib import Path

from harness.analysis.invariants import INVARIANTS, Invariant
from harness.analysis.metrics import METRICS
from harness.base.guest_options import guest_options
from harness.base.options import FLAG, Door, Option
from harness.record.console import Kind

_PART = re.compile(r"(<!-- ([a-z-]+): made by [^>]* -->\n\n).*?(\n<!-- end -->\n)", re.DOTALL)
_WHERE = {Door.CLI: "cli", Door.PYTEST: "pytest", Door.PLAN: "plan", Door.MARK: "mark"}


def _table(header: str, rows: Iterable[tuple[str, ...]]) -> str:
    lines = [header, "|---" * (header.count("|") - 1) + "|"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows), ""])


def invariant_list() -> str:
    """What each invariant compares, numbered."""
    return "".join(_item(number, row) for number, row in enumerate(INVARIANTS, start=1))


def _item(number: int, row: Invariant) -> str:
    text = f"{number}. **{row.name}.** {row.compares}"
    return textwrap.fill(text, 110, subsequent_indent="   ", break_on_hyphens=False) + "\n"


def invariant_table() -> str:
    """What a failure of each is called, and where it is asked."""
    rows = []
    for number, row in enumerate(INVARIANTS, start=1):
        signals = ", ".join(f"`{signal}`" for signal in row.signals) or "–"
        if set(row.signals) == set(Kind):
            signals = "the kind of report (`oops`, `warn`, …)"
        asked = ", ".join(scope.value for scope in row.scopes)
        rows.append((str(number), row.name, signals, row.where, asked))
    return _table("| | invariant | signal | where | asked of |", rows)


def metric_table() -> str:
    rows = [(f"`{m.name}`", m.unit, m.better.value, m.meaning, m.source) for m in METRICS]
    return _table("| metric | unit | better | what it is | source |", rows)


def option_table() -> str:
    header = "| option | value | default | targets | where | what it says |"
    return _table(header, [_option(option) for option in guest_options()])


def _option(option: Option) -> tuple[str, ...]:
    row, kind = option.row, option.row.kind
    value = "" if kind is FLAG else " or ".join(kind.choices) or kind.metavar
    targets = ", ".join(row.targets) + (" (a wish)" if row.wish else "")
    doors = [word for door, word in _WHERE.items() if door in row.doors]
    where = "everywhere" if len(doors) == len(_WHERE) else ", ".join(doors)
    return f"`{option.flag}`", value, option.default_text, targets or "all", where, row.help


PARTS = {
    "invariants": invariant_list,
    "invariant-table": invariant_table,
    "metrics": metric_table,
    "options": option_table,
}


def renewed(page: str) -> str:
    """`page` with its made parts as the code has them now."""
    return _PART.sub(lambda part: part[1] + PARTS[part[2]]() + part[3], page)


if __name__ == "__main__":
    for path in Path("docs").glob("*.md"):
        path.write_text(renewed(path.read_text()))
