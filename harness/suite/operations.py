# SPDX-License-Identifier: MIT
"""What random tests do to a guest's memory: named operations with parameters, as plain data.

A sequence of them is a reproducer: JSON that `pytest --sequence FILE` runs again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from harness.base.status import Status, UsageError
from harness.base.units import MAX_ORDER_PAGES, MIB, PAGE_SIZE, UNIT_SIZE
from harness.record.check import Check
from harness.suite import upheavals
from harness.suite.hook import HookRefused
from harness.suite.subject import Subject

Value = int | str
BLOCK = MAX_ORDER_PAGES * PAGE_SIZE
FINDINGS = {
    "listed_without_type": "lists",
    "listed_wrong": "lists",
    "zone_counter_wrong": "lists",
    "pending_unlisted": "lists",
    "free_but_pending": "free-but-pending",
    "free_unguarded": "guard",
    "used_unguarded": "guard",
}


@dataclass(frozen=True)
class Operation:
    """One step: its name, and numbers or words for it."""

    name: str
    values: Mapping[str, Value] = field(default_factory=dict)

    def describe(self) -> str:
        """As a person reads it: alloc order=3 count=100."""
        return " ".join([self.name, *(f"{key}={value}" for key, value in self.values.items())])


def apply(subject: Subject, operation: Operation) -> None:
    """Do one step. Raises as Subject does; UsageError for a name that is none."""
    try:
        do = _OPERATIONS[operation.name]
    except KeyError:
        known = ", ".join(_OPERATIONS)
        raise UsageError(f"unknown operation {operation.name!r}", hint=f"known: {known}") from None
    do(subject, dict(operation.values))


def inspect(subject: Subject) -> list[Check]:
    """What must hold after each step: lists, types and table agree, and all is guarded."""
    scan = subject.hook("scan")
    if any(scan[name] for name in FINDINGS):
        scan = subject.hook("scan")  # it does not stop who allocates meanwhile
    return [
        Check(name, Status.FAIL, f"{scan[name]} times, first {scan[f'{name}_first']:#x}", signal)
        for name, signal in FINDINGS.items()
        if scan[name]
    ]


def save_sequence(path: Path, steps: Sequence[Operation]) -> None:
    """Write a reproducer."""
    path.write_text(
        json.dumps([{"do": step.name, **step.values} for step in steps], indent=1) + "\n"
    )


def load_sequence(path: Path) -> list[Operation]:
    """Read a reproducer. Raises UsageError naming what is wrong with it."""
    try:
        content = json.loads(path.read_text())
        if not isinstance(content, list):
            raise ValueError("not a list of steps")
        return [_operation(step) for step in content]
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: {error}") from error


def _operation(step: object) -> Operation:
    if not isinstance(step, dict) or step.get("do") not in _OPERATIONS:
        raise ValueError(f"not a step: {step!r:.100}")
    values = {key: value for key, value in step.items() if key != "do"}
    if not all(isinstance(value, int | str) for value in values.values()):
        raise ValueError(f"values are numbers or words: {step!r:.100}")
    return Operation(step["do"], values)


def _hook(verb: str) -> Callable[[Subject, dict[str, Value]], None]:
    def do(subject: Subject, values: dict[str, Value]) -> None:
        figures = subject.hook(verb, **values)
        wrong = figures.get("corrupt", 0)
        subject.verify("corrupt", wrong == 0, f"{verb}: {wrong} words changed")

    return do


def _must_succeed(verb: str) -> Callable[[Subject, dict[str, Value]], None]:
    """For requests that fit easily into what is free: failing is a failure of the kernel."""

    def do(subject: Subject, values: dict[str, Value]) -> None:
        figures = subject.hook(verb, **values)
        failed, wrong = figures.get("failed", 0), figures.get("corrupt", 0)
        words = " ".join(f"{key}={value}" for key, value in values.items())
        subject.verify("allocation-failed", failed == 0, f"{verb} {words}: {failed} failed")
        subject.verify("corrupt", wrong == 0, f"{verb} {words}: {wrong} words changed")

    return do


def _bulk(subject: Subject, values: dict[str, Value]) -> None:
    figures = subject.hook("bulk", **values)
    whole, calls = figures["whole_calls"], figures["calls"]
    subject.verify("bulk", whole == calls, f"{whole} of {calls} bulk calls gave all pages")


def _range(verb: str) -> Callable[[Subject, dict[str, Value]], None]:
    def do(subject: Subject, values: dict[str, Value]) -> None:
        size = int(values["blocks"]) * BLOCK
        runs = [run for run in subject.pending() if len(run) >= size + 4 * BLOCK]
        if not runs:
            return
        run = runs[int(values["place"]) % len(runs)]
        room = (len(run) - size) // BLOCK - 2
        start = run.start + (1 + int(values["place"]) % room) * BLOCK
        start = start // BLOCK * BLOCK + int(values.get("shift", 0)) * PAGE_SIZE
        figures = subject.hook(verb, start=start, size=size)
        detail = f"{verb} {start:#x} {size:#x}: errno {figures.get('errno', 0)}"
        within = start % BLOCK >= UNIT_SIZE  # in a block's second pageblock: defect G
        signal = "isolation-within-block" if within else "isolation"
        subject.verify(signal, figures["done"] == 1, detail)
        left = figures.get("unaccepted_left", 0)
        subject.verify("isolation", left == 0, f"{verb} {start:#x}: still unaccepted inside")

    return do


def _touch(subject: Subject, values: dict[str, Value]) -> None:
    size = min(int(values["mib"]) * MIB, subject.available_bytes() // 2)
    command = f"cvm touch --bytes {size // MIB * MIB} --page {values['page']} "
    command += f"--processes {values['workers']} --verify"
    done = subject.run.guest.run(command, check=False, deadline_s=180)
    subject.verify("corrupt", done.exit_status != 4, f"{command}: lost what was written")
    subject.verify("touch", done.exit_status in (0, 4), f"{command}: {done.text[-100:]}")


def _shell(script: str) -> Callable[[Subject, dict[str, Value]], None]:
    return lambda subject, values: _ignore(subject.sh(script.format(**values), check=False))


def _ignore(_: object) -> None:
    return None


def _nolock(subject: Subject, values: dict[str, Value]) -> None:
    if subject.hook("status")["has_nolock"]:  # alloc_pages_nolock() came with 6.15
        _must_succeed("alloc")(subject, {"gfp": "nolock", **values})


def _place(do: Callable[[Subject, int], None]) -> Callable[[Subject, dict[str, Value]], None]:
    return lambda subject, values: do(subject, int(values["place"]))


def _soak(subject: Subject, values: dict[str, Value]) -> None:
    try:
        subject.hook("soak", size=4 * MIB)
    except HookRefused:
        return  # nothing is unaccepted any more


_OPERATIONS: dict[str, Callable[[Subject, dict[str, Value]], None]] = {
    "alloc": _must_succeed("alloc"),
    "bulk": _bulk,
    "slab": _must_succeed("slab"),
    "vmalloc": _must_succeed("vmalloc"),
    "range": _range("range"),
    "isolate": _range("isolate"),
    "touch": _touch,
    "soak": _soak,
    "free": _hook("free"),
    "thin": _hook("thin"),
    "zeropad": _hook("zeropad"),
    "drop_caches": _shell("echo 3 > /proc/sys/vm/drop_caches"),
    "compact": _shell("echo 1 > /proc/sys/vm/compact_memory"),
    "huge": _shell("echo {pages} > /proc/sys/vm/nr_hugepages; echo 0 > /proc/sys/vm/nr_hugepages"),
    "nolock": _nolock,
    "cpu": lambda subject, _: upheavals.cycle_cpu(subject),
    "block": _place(upheavals.cycle_block),
    "kcore": _place(upheavals.read_pending),
    "plug": lambda subject, _: upheavals.plug(subject),
    "unplug": lambda subject, _: upheavals.unplug(subject),
    "kexec": lambda subject, _: upheavals.next_kernel(subject),
    "read": _shell("cat /proc/kpageflags /proc/kpagecount > /dev/null"),
}
OPERATIONS = tuple(_OPERATIONS)
