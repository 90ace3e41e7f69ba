# SPDX-License-Identifier: MIT
"""Runs as KTAP (Documentation/dev-tools/ktap.rst, 6.12): one test a run, its checks as subtests.
What could not be judged is `not ok`, and a diagnostic line has its status: KTAP knows no third
result."""

from collections.abc import Iterator, Sequence

from harness.analysis.metrics import figures_of
from harness.base.status import Status
from harness.base.text import inert
from harness.record.view import RunView

_INDENT = "    "
_VERSION = "KTAP version 1"


def ktap(runs: Sequence[RunView]) -> str:
    lines = [_VERSION, f"1..{len(runs)}"]
    for number, run in enumerate(runs, start=1):
        lines += _run(number, run)
    return "\n".join(lines) + "\n"


def _run(number: int, run: RunView) -> Iterator[str]:
    checks = run.checks
    if checks:
        yield f"{_INDENT}{_VERSION}"
        yield f"{_INDENT}# Subtest: {_name(run.id)}"
        yield f"{_INDENT}1..{len(checks)}"
        for place, check in enumerate(checks, start=1):
            if check.detail and check.status != Status.SKIP.value:
                yield f"{_INDENT}# {check.name}: {check.detail}"
            yield _INDENT + _result(place, *check)
    for key, value in _facts(run):
        yield f"# {key}: {value}"
    yield _result(number, run.id, run.status.value, run.text("cause"))


def _facts(run: RunView) -> Iterator[tuple[str, str]]:
    yield "status", run.status.value
    for key, value in (
        ("cause", run.text("cause")),
        ("target", run.text("spec", "target")),
        ("kernel", run.text("kernel", "release")),
        ("workload", run.workload_name),
        ("rerun", run.text("rerun")),
    ):
        if value:
            yield key, value
    for metric, number in figures_of(run):
        yield metric.name, f"{number:.17g} {metric.unit}"


def _result(number: int, name: str, status: str, reason: str) -> str:
    if status == Status.SKIP.value:
        return f"ok {number} {_name(name)} # SKIP {reason}".rstrip()
    good = status in (Status.PASS.value, Status.DONE.value)
    return f"{'ok' if good else 'not ok'} {number} {_name(name)}"


def _name(text: str) -> str:
    """A test's name: # begins a directive, so there is none in it."""
    return inert(text).replace("#", "_").strip()
