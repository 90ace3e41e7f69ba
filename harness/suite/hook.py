# SPDX-License-Identifier: MIT
"""The in-kernel test hooks of the carried accept-test patch, from this side (docs/suite.md)."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping

from harness.base.status import PreconditionError
from harness.guest.guest import Guest
from harness.suite.features import HOOK

_LINE = re.compile(r"([a-z_]{1,40}) (\d{1,20}|0x[0-9a-f]{1,16})")
_MAX_RESULT = 64 << 10


class HookRefused(PreconditionError):
    """The kernel answered a command with an error: it could not even begin."""


def run_hook(
    guest: Guest, verb: str, words: Mapping[str, int | str], deadline_s: float = 120.0
) -> Mapping[str, int]:
    """Run one command; its figures by name.

    Raises HookRefused with the kernel's error, PreconditionError for a result that is none.
    """
    command = " ".join([verb, *(f"{name}={value}" for name, value in words.items())])
    script = f"printf %s {shlex.quote(command)} > {HOOK}/command && cat {HOOK}/result"
    done = guest.run(script, deadline_s=deadline_s, check=False, max_output=_MAX_RESULT)
    if done.exit_status != 0:
        said = done.stderr.decode(errors="replace").strip()[-200:]
        raise HookRefused(f"the kernel's test hook refused {command!r}: {said}")
    return parse_result(done.text)


def parse_result(text: str) -> Mapping[str, int]:
    """The hook's "name value" lines. Raises PreconditionError for anything else."""
    figures: dict[str, int] = {}
    for line in text.splitlines():
        match = _LINE.fullmatch(line)
        if not match or match[1] in figures:
            raise PreconditionError(f"unreadable result of the kernel's test hook: {line[:100]!r}")
        figures[match[1]] = int(match[2], 0)
    return figures
