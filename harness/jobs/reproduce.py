# SPDX-License-Identifier: MIT
"""Do a recorded run again, and say whether the outcome is the same."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.base.status import HarnessError, PreconditionError, Status, UsageError
from harness.jobs.bisect.trial import look_of
from harness.record.view import RunView, run_directories

_PROGRAMS = ("cvm-harness", "pytest")
_RUNS = re.compile(r"--runs(=.*)?")


Runner = Callable[[Sequence[str]], int]
"""Runs a command line to its end: its exit code."""


@dataclass(frozen=True)
class Seen:
    status: Status
    cause: str
    kernel: str
    """Release and digest."""
    path: Path

    @classmethod
    def of(cls, view: RunView) -> Seen:
        kernel = f"{view.text('kernel', 'release')} {view.text('kernel', 'digest')[:12]}"
        return cls(view.status, view.text("cause"), kernel.strip(), view.path)


@dataclass(frozen=True)
class Reproduction:
    before: Seen
    after: Seen
    tries: int

    @property
    def same(self) -> bool:
        """Whether the outcome is the same: status, and the cause apart from numbers."""
        return self.before.status is self.after.status and look_of(self.before.cause).like(
            look_of(self.after.cause)
        )

    @property
    def same_kernel(self) -> bool:
        """Whether it was the same kernel, byte for byte."""
        return self.before.kernel == self.after.kernel


def rerun_command(view: RunView, runs: Path) -> list[str]:
    """The command line that does a run again, its run directories under `runs`.

    Raises UsageError where the record has none. It names one of the harness's programs and nothing
    else: a record may come from anywhere.
    """
    try:
        words = shlex.split(view.text("rerun"))
    except ValueError:
        words = []
    if not words or words[0] not in _PROGRAMS:
        raise UsageError(
            f"{view.path} does not say how to do it again: {view.text('rerun')[:120]!r}",
            hint="its repro.sh starts the same guest by hand",
        )
    kept: list[str] = []
    skip = False
    for word in words[1:]:
        if skip:
            skip = False
        elif match := _RUNS.fullmatch(word):
            skip = match[1] is None
        elif word != "--json":
            kept.append(word)
    where = f"--runs={runs}"
    if words[0] == "pytest":
        return ["pytest", where, *kept]
    # Options go before a workload's own words, of which the last may be "--".
    at = 2 if kept[:1] == ["run"] and len(kept) > 1 else 1
    return ["cvm-harness", *kept[:at], where, *kept[at:]]


def reproduce(run: Path, runs: Path, runner: Runner, tries: int = 1) -> Reproduction:
    """Run it again, up to `tries` times until the outcome is the same."""
    view = RunView.load(run)
    before = Seen.of(view)
    command = rerun_command(view, runs)
    for number in range(1, tries + 1):
        known = set(run_directories(runs))
        code = runner(command)
        new = [path for path in run_directories(runs) if path not in known]
        if not new:
            raise PreconditionError(
                f"the command ended with exit code {code} and made no run directory",
                hint=f"run it by hand: {shlex.join(command)}",
            )
        found = Reproduction(before, _closest(before, new), number)
        if found.same:
            break
    return found


def _closest(before: Seen, new: Sequence[Path]) -> Seen:
    """Of several guests that a test booted, the one with the same outcome; else the first bad."""
    seen = []
    for path in new:
        try:
            seen.append(Seen.of(RunView.load(path)))
        except HarnessError:
            continue
    if not seen:
        raise PreconditionError("the new run directories cannot be read")
    same = [one for one in seen if Reproduction(before, one, 1).same]
    bad = [one for one in seen if one.status.exit_code]
    return (same or bad or seen)[0]
