# SPDX-License-Identifier: MIT
"""Comparisons on the terminal: the verdicts first, then what they could have seen."""

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from harness.analysis.functions import FunctionChange
from harness.base.text import inert
from harness.compare.suites import Difference
from harness.record.comparison import Comparison, Interval, Verdict
from harness.report.terminal import columns

_MOST_FUNCTIONS = 10
_STYLES = {
    Verdict.REGRESSED: "bold red",
    Verdict.IMPROVED: "bold green",
    Verdict.EQUIVALENT: "green",
    Verdict.INCONCLUSIVE: "yellow",
}


def screen(found: Sequence[Comparison], differences: Sequence[str]) -> RenderableType:
    """Everything about the comparison of two arms; at least one metric."""
    first = found[0]
    alpha = first.criteria.errors.alpha
    rows = [
        (
            c.metric,
            c.verdict.value,
            f"{c.effect:+.3%}",
            _interval(c.interval),
            _percent(c.minimum_detectable_effect),
            f"{c.median_ratio - 1:+.3%}",
            f"{c.p_value if c.q_value is None else c.q_value:.2g}",
            f"{c.runs_a} / {c.runs_b}",
        )
        for c in found
    ]
    header = ["B against A", "verdict", "effect", f"{1 - alpha:.0%} interval"]
    header += ["could have seen", "medians", "q", "runs A / B"]
    title = f"margin ±{first.criteria.margin:.2g}, false discovery rate {alpha:.0%}"
    about = Text("what differs: " + ("; ".join(differences) or "nothing that was recorded"))
    return Group(about, columns(title, header, rows), *(_notes(c) for c in found))


def functions(moved: Sequence[FunctionChange]) -> RenderableType:
    """Where the instructions are that B's runs execute more or fewer."""
    rows = [
        (inert(c.name), f"{c.a:,.0f}", f"{c.b:,.0f}", f"{c.more:+,.0f}")
        for c in moved[:_MOST_FUNCTIONS]
    ]
    total = sum(change.more for change in moved)
    title = f"instructions by function, a run: {total:+,.0f} in all, {len(moved)} functions changed"
    return columns(title, ["function, without what it calls", "A", "B", "B − A"], rows)


def suites(found: Sequence[Difference], both: int, names: tuple[str, str]) -> RenderableType:
    """Tests whose verdicts differ between two runs that have `both` tests in common."""
    title = f"{both} tests in both, {len(found)} differ"
    rows = [(inert(row.test), inert(row.a), inert(row.b)) for row in found]
    return columns(title, ["test", *map(inert, names)], rows) if rows else Text(title)


def _notes(comparison: Comparison) -> Text:
    text = Text(f"{comparison.metric}: ")
    text.append(comparison.verdict.value, style=_STYLES[comparison.verdict])
    if comparison.plan:
        wanted = ", ".join(
            f"{_more(runs, comparison)} for {effect:.0%}"
            for effect, runs in comparison.plan.items()
        )
        text.append(f"; additional runs needed per arm: {wanted}")
    elif comparison.relative_sd is None:
        text.append("; one run an arm says nothing about the noise: run more")
    return text


def _more(runs: int, comparison: Comparison) -> str:
    missing = runs - min(comparison.runs_a, comparison.runs_b)
    return f"{missing:,}" if missing > 0 else "none"


def _percent(share: float | None) -> str:
    return "–" if share is None else f"±{share:.2%}"


def _interval(interval: Interval | None) -> str:
    if interval is None:
        return "–"
    return f"{interval.low - 1:+.3%} to {interval.high - 1:+.3%}"
