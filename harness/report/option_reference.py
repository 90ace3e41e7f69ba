# SPDX-License-Identifier: MIT
"""docs/options.md out of the table of guest options: python -m harness.report.option_reference."""

from __future__ import annotations

from harness.base.guest_options import guest_options
from harness.base.options import FLAG, Door, Option

_HEAD = """<!-- Made by `python -m harness.report.option_reference > docs/options.md`: edit
harness/base/spec.py instead. -->

# Guest options

What can be said of a guest. On the command line and for pytest it is `--numa-nodes=2`, in Python
`guest_spec(numa_nodes=2)`, in a plan file `numa_nodes = 2`, in a test's mark
`@pytest.mark.acceptance(numa_nodes=2)`. A flag is switched off by `--no-strict`; pytest has only
the spelling that differs from the default. Sizes are written 4G, 2700M or in bytes.

An option that the target's guests cannot have is refused; a test's mark that asks for one skips the
test, but for *wishes*, which such a guest does without.

| option | value | default | targets | where | what it says |
|---|---|---|---|---|---|
"""
_WHERE = {Door.CLI: "cli", Door.PYTEST: "pytest", Door.PLAN: "plan", Door.MARK: "mark"}


def reference() -> str:
    """The page."""
    return _HEAD + "".join(_line(option) for option in guest_options())


def _line(option: Option) -> str:
    kind = option.row.kind
    value = "" if kind is FLAG else " or ".join(kind.choices) or kind.metavar
    targets = ", ".join(option.row.targets) + (" (a wish)" if option.row.wish else "")
    doors = [word for door, word in _WHERE.items() if door in option.row.doors]
    where = "everywhere" if len(doors) == len(_WHERE) else ", ".join(doors)
    cells = (
        f"`{option.flag}`",
        value,
        option.default_text,
        targets or "all",
        where,
        option.row.help,
    )
    return "| " + " | ".join(cells) + " |\n"


if __name__ == "__main__":
    print(reference(), end="")
