# SPDX-License-Identifier: MIT
"""From a night's journal to its results (night.json, docs/nightly.md). Pure: however often the
night was killed and resumed, the same journal gives the same results."""

import itertools
from collections.abc import Sequence

from msgspec.structs import replace

from harness.base.status import HarnessError, Status, worst
from harness.compare.verdict import control_false_discoveries
from harness.jobs.nightly.measure import (
    Turn,
    comparisons_of,
    judge_comparisons,
    metrics_of_cell,
    samples_of,
    values,
)
from harness.jobs.nightly.plan import Cell
from harness.record.attempts import Sample
from harness.record.comparison import Comparison
from harness.record.journal import Event, told
from harness.record.night import SCHEMA, CellKind, CellResult, Ending, NightResults

NOT_RUN = "not run yet"


def roll_up(plan: str, cells: Sequence[Cell], events: Sequence[Event]) -> NightResults:
    found = _with_comparisons(cells, [_cell(cell, events) for cell in cells], events)
    finished = all(result.done for result in found)
    status, cause = _overall(found, finished)
    return NightResults(
        schema=SCHEMA,
        plan=plan,
        started_utc=str(events[0]["utc"]) if events else "",
        ended_utc=str(events[-1]["utc"]) if events else "",
        finished=finished,
        status=status,
        cause=cause,
        counts={s.value: n for s in Status if (n := sum(c.status is s for c in found))},
        cells=tuple(found),
        interruptions=max(0, sum(event["event"] == "session" for event in events) - 1),
    )


def _overall(found: Sequence[CellResult], finished: bool) -> tuple[Status, str]:
    judged = [result.status for result in found if result.status is not Status.SKIP]
    status = worst(judged)  # ERROR if nothing was judged
    bad = [result for result in found if result.status is status]
    if not finished and status not in (Status.FAIL, Status.ERROR):
        return Status.MISS, f"{sum(not r.done for r in found)} cells were not run"
    if not judged:
        return status, "nothing was judged"
    if status in (Status.FAIL, Status.ERROR, Status.MISS):
        return status, f"{bad[0].key}: {bad[0].cause}"
    return status, ""


def _cell(cell: Cell, events: Sequence[Event]) -> CellResult:
    mine = [event for event in events if event.get("cell") == cell.key]
    ended = next((event for event in mine if event["event"] == "end"), None)
    end = told(ended, Ending) if ended else Ending(Status.SKIP, NOT_RUN)
    places = [e["place"] for e in mine if e["event"] != "begin" and "place" in e]
    commands = [end.command, *(str(e["command"]) for e in mine if e.get("command"))]
    return CellResult(
        key=cell.key,
        kind=cell.kind,
        kernel=cell.kernel,
        base=cell.base,
        config=cell.config,
        guest=dict(cell.guest.values) if cell.guest else {},
        work=cell.work,
        status=end.status,
        cause=end.cause,
        done=ended is not None,
        seconds=ended.get("seconds", 0.0) if ended else 0.0,
        command=next(filter(None, commands), ""),
        places=tuple(dict.fromkeys(places)),
        failed=end.failed,
        flakes=end.flakes,
        known=end.known,
        counts=end.counts,
        release=end.release,
    )


def _with_comparisons(
    cells: Sequence[Cell], found: Sequence[CellResult], events: Sequence[Event]
) -> list[CellResult]:
    """Compares what was measured; false discoveries are held down over the whole night."""
    results = list(found)
    compared: dict[int, list[Comparison]] = {}
    for number, (cell, result) in enumerate(zip(cells, found, strict=True)):
        if cell.kind is not CellKind.MEASURE or result.status is not Status.DONE:
            continue
        samples = samples_of(events, cell)
        try:
            results[number] = replace(result, values=_values(cell, samples))
            if cell.base:
                compared[number] = comparisons_of(cell, samples)
        except HarnessError as error:
            results[number] = replace(result, status=error.status, cause=error.cause)
    controlled = iter(control_false_discoveries([*itertools.chain(*compared.values())]))
    for number, of_cell in compared.items():
        comparisons = tuple(itertools.islice(controlled, len(of_cell)))
        status, cause = judge_comparisons(comparisons)
        results[number] = replace(
            results[number], status=status, cause=cause, comparisons=comparisons
        )
    return results


def _values(cell: Cell, samples: dict[Turn, Sample]) -> dict[str, dict[str, tuple[float, ...]]]:
    arms = [arm for arm in (cell.base, cell.kernel) if arm]
    return {
        metric: {arm: tuple(values(samples, arm, metric)) for arm in arms}
        for metric in metrics_of_cell(cell)
    }
