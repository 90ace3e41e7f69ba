# SPDX-License-Identifier: MIT
"""In what two runs differ before anything is measured: the first place to look for a cause."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from harness.record.view import RunView

_PARTS = ("spec", "kernel", "image", "qemu", "accel", "host", "firmware", "cost_model")
_COMMAND = "command_line"
"""Of QEMU's arguments only those are shown that the other run has not."""
_PLACES = frozenset({"bzimage", "config", "path", "modules"})
"""Where things lie says nothing about what they are: digests do."""


def flatten(tree: Any, prefix: str = "") -> dict[str, str]:
    """Nested mappings as dotted names and texts."""
    if isinstance(tree, Mapping):
        found: dict[str, str] = {}
        for key, value in tree.items():
            if key not in _PLACES:
                found |= flatten(value, f"{prefix}.{key}" if prefix else str(key))
        return found
    if isinstance(tree, str):
        return {prefix: tree}
    return {prefix: json.dumps(tree)}


def differences(first: RunView, second: RunView) -> list[tuple[str, str, str]]:
    """Name and both values of every input that is not the same; "–": absent."""
    a, b = (flatten({part: run.get(part) for part in _PARTS}) for run in (first, second))
    mine, other = (_words(run) for run in (first, second))
    a[_COMMAND], b[_COMMAND] = _only(mine, other), _only(other, mine)
    names = sorted(a.keys() | b.keys())
    return [
        (name, a.get(name, "–"), b.get(name, "–")) for name in names if a.get(name) != b.get(name)
    ]


def _words(run: RunView) -> list[str]:
    command = run.get(_COMMAND)
    return command.replace("\\\n", " ").split() if isinstance(command, str) else []


def _only(words: list[str], other: list[str]) -> str:
    known = set(other)
    return " ".join(word for word in words if word not in known)
