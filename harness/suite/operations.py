# SPDX-License-Identifier: MIT
"""What random tests do to a guest's memory: named operations with parameters. A sequence of them is
a reproducer: JSON that `pytest --sequence FILE` runs again."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from harness.base.reader import read_json
from harness.base.status import Status, UsageError
from harness.base.units import MAX_ORDER_PAGES, MIB, PAGE_SIZE, UNIT_SIZE
from harness.record.check import Check
from harness.record.rundir import write_json
from harness.suite import upheavals
from harness.suite.hook import HookRefused
from harness.suite.subject import Subject

Value = int | str
Values = Mapping[str, Value]
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
    name: str
    values: Values = field(default_factory=dict)

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
    do(subject, operation.values)


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
    write_json(path, [{"do": step.name, **step.values} for step in steps])


def load_sequence(path: Path) -> list[Operation]:
    """Read a reproducer. Raises UsageError naming what is wrong with it."""
    steps = []
    for step in read_json(path, list[dict[str, Value]]):
        name = step.pop("do", "")
        if name not in _OPERATIONS:
            raise UsageError(f"{path}: not a step: {step!r:.100}")
        steps.append(Operation(str(name), step))
    return steps


def _hook(verb: str, subject: Subject, values: Values) -> Mapping[str, int]:
    figures = subject.hook(verb, **values)
    wrong = figures.get("corrupt", 0)
    words = Operation(verb, values).describe()
    subject.verify("corrupt", wrong == 0, f"{words}: {wrong} words changed")
    return figures


def _must_succeed(verb: str, subject: Subject, values: Values) -> None:
    """For requests that fit easily into what is free: failing is a failure of the kernel."""
    failed = _hook(verb, subject, values).get("failed", 0)
    words = Operation(verb, values).describe()
    subject.verify("allocation-failed", failed == 0, f"{words}: {failed} failed")


def _bulk(subject: Subject, values: Values) -> None:
    figures = subject.hook("bulk", **values)
    whole, calls = figures["whole_calls"], figures["calls"]
    subject.verify("bulk", whole == calls, f"{whole} of {calls} bulk calls gave all pages")


def _range(verb: str, subject: Subject, values: Values) -> None:
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


def _touch(subject: Subject, values: Values) -> None:
    size = min(int(values["mib"]) * MIB, subject.available_bytes() // 2)
    command = f"cvm touch --bytes {size // MIB * MIB} --page {values['page']} "
    command += f"--processes {values['workers']} --verify"
    done = subject.run.guest.run(command, check=False, deadline_s=180)
    subject.verify("corrupt", done.exit_status != 4, f"{command}: lost what was written")
    subject.verify("touch", done.exit_status in (0, 4), f"{command}: {done.text[-100:]}")


def _shell(script: str, subject: Subject, values: Values) -> None:
    subject.sh(script.format(**values), check=False)


def _nolock(subject: Subject, values: Values) -> None:
    if subject.hook("status")["has_nolock"]:  # alloc_pages_nolock() came with 6.15
        _must_succeed("alloc", subject, {"gfp": "nolock", **values})


def _soak(subject: Subject, values: Values) -> None:
    try:
        subject.hook("soak", size=4 * MIB)
    except HookRefused:
        return  # nothing is unaccepted any more


_OPERATIONS: dict[str, Callable[[Subject, Values], object]] = {
    "alloc": partial(_must_succeed, "alloc"),
    "bulk": _bulk,
    "slab": partial(_must_succeed, "slab"),
    "vmalloc": partial(_must_succeed, "vmalloc"),
    "range": partial(_range, "range"),
    "isolate": partial(_range, "isolate"),
    "touch": _touch,
    "soak": _soak,
    "free": partial(_hook, "free"),
    "thin": partial(_hook, "thin"),
    "zeropad": partial(_hook, "zeropad"),
    "drop_caches": partial(_shell, "echo 3 > /proc/sys/vm/drop_caches"),
    "compact": partial(_shell, "echo 1 > /proc/sys/vm/compact_memory"),
    "huge": partial(
        _shell, "echo {pages} > /proc/sys/vm/nr_hugepages; echo 0 > /proc/sys/vm/nr_hugepages"
    ),
    "nolock": _nolock,
    "cpu": lambda subject, _: upheavals.cycle_cpu(subject),
    "block": lambda subject, values: upheavals.cycle_block(subject, int(values["place"])),
    "kcore": lambda subject, values: upheavals.read_pending(subject, int(values["place"])),
    "plug": lambda subject, _: upheavals.plug(subject),
    "unplug": lambda subject, _: upheavals.unplug(subject),
    "kexec": lambda subject, _: upheavals.next_kernel(subject),
    "read": partial(_shell, "cat /proc/kpageflags /proc/kpagecount > /dev/null"),
}
OPERATIONS = tuple(_OPERATIONS)
