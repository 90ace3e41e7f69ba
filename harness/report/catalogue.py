# SPDX-License-Identifier: MIT
"""What people and machines see of the catalogue of bugs. Pure."""

from collections.abc import Sequence
from typing import Any

from harness.base.status import Status
from harness.jobs.catalogue.entry import BugEntry
from harness.jobs.catalogue.runner import BugResult, node_ids


def entry_rows(entries: Sequence[BugEntry]) -> list[tuple[str, ...]]:
    """One row a bug: id, origin, kernels, signals."""
    return [(e.id, e.origin, str(e.versions), _signals(e)) for e in entries]


def _signals(entry: BugEntry) -> str:
    if entry.uncaught:
        return "not caught"
    words = dict.fromkeys(s for catch in entry.catches for s in sorted(catch.signals))
    return ", ".join(words) or "the guest does not boot"


def entry_record(entry: BugEntry, kernel: str = "") -> dict[str, Any]:
    record: dict[str, Any] = {
        "id": entry.id,
        "title": entry.title,
        "origin": entry.origin,
        "fix": entry.fix,
        "versions": str(entry.versions),
        "symptom": entry.symptom,
        "how": entry.how,
        "tests": list(node_ids(entry.catches)),
        "signals": sorted({signal for catch in entry.catches for signal in catch.signals}),
        "uncaught": entry.uncaught,
    }
    if kernel:
        record["by_hand"] = entry.by_hand.command_line(entry, kernel)
    return record


def entry_text(entry: BugEntry, kernel: str) -> str:
    """One bug for people: facts, the command that shows it, the tests that catch it."""
    lines = [
        f"{entry.id}: {entry.title}",
        "",
        f"origin      {entry.origin}",
        f"kernels     {entry.versions}",
        f"symptom     {entry.symptom}",
        f"brought back by   {entry.how}",
        "",
        "By hand, with the bug on:",
        "",
        f"  {entry.by_hand.command_line(entry, kernel)}",
        "",
    ]
    if entry.by_hand.see:
        lines += [entry.by_hand.see, ""]
    if entry.uncaught:
        lines += [f"Not caught: {entry.uncaught}"]
    for catch in entry.catches:
        reason = ", ".join(sorted(catch.signals)) or f"a cause like {catch.cause!r}"
        where = "" if str(catch.versions) == "all" else f" ({catch.versions})"
        lines += [f"Caught by{where}, for {reason}:", *(f"  {test}" for test in catch.tests)]
    if entry.catches:
        lines += ["", f"  cvm-harness catalogue run --kernel={kernel} {entry.id}"]
    return "\n".join(lines)


def result_rows(results: Sequence[BugResult]) -> list[tuple[str, ...]]:
    """One row for each bug and test: bug, test, signal, time, what the test says with it off."""
    rows: list[tuple[str, ...]] = []
    for result in results:
        if not result.judged:
            rows.append((result.entry.id, "–", f"not caught: {result.entry.uncaught}", "–", "–"))
        for index, judged in enumerate(result.judged):
            name, verdict = result.entry.id if index == 0 else "", judged.verdict
            word = judged.signal if judged.caught else f"NOT CAUGHT: {judged.signal}"
            off = (v.status.value for v in result.clean if v.test == verdict.test)
            seconds = f"{verdict.seconds:.1f} s"
            rows.append((name, verdict.name, word, seconds, next(off, "not run")))
    return rows


def summary(results: Sequence[BugResult], version: str) -> str:
    """The count in one line, then what went wrong."""
    tried = [result for result in results if not result.entry.uncaught]
    caught = [result for result in tried if result.caught]
    seconds = sum(result.seconds for result in results)
    lines = [f"kernel {version}: {len(caught)} of {len(results)} bugs caught, {seconds:.0f} s"]
    for result in results:
        if result.entry.uncaught:
            lines.append(f"{result.entry.id}: known not to be caught: {result.entry.uncaught}")
        elif not result.caught:
            lines.append(f"{result.entry.id}: NOT CAUGHT")
        for verdict in result.false_alarms:
            said = f"{verdict.name} is {verdict.status.value} with every bug off: {verdict.cause}"
            lines.append(f"{result.entry.id}: {said}")
    return "\n".join(lines)


def result_record(result: BugResult) -> dict[str, Any]:
    return {
        "id": result.entry.id,
        "status": result.status.value,
        "caught": result.caught,
        "uncaught_reason": result.entry.uncaught,
        "seconds": round(result.seconds, 2),
        "tests": [
            {
                "test": judged.verdict.test,
                "caught": judged.caught,
                "signal": judged.signal,
                "status": judged.verdict.status.value,
                "signals": sorted(judged.verdict.signals),
                "cause": judged.verdict.cause,
                "seconds": round(judged.verdict.seconds, 2),
            }
            for judged in result.judged
        ],
        "bug_off": [
            {"test": v.test, "status": v.status.value, "cause": v.cause} for v in result.clean
        ],
        "false_alarm": any(v.status is not Status.PASS for v in result.false_alarms),
    }
