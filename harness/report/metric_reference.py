# SPDX-License-Identifier: MIT
"""docs/metrics.md out of the table of metrics: python -m harness.report.metric_reference."""

from __future__ import annotations

from harness.analysis.metrics import METRICS

_HEAD = """<!-- Made by `python -m harness.report.metric_reference > docs/metrics.md`: edit
harness/analysis/metrics.py instead. -->

# Metrics

One number of one run each, that is of one fresh guest. These names are used by `history`, `bisect`,
`series`, plan files, `report --trend` and all exports. A run that has no such number (nothing was
traced, the kernel lacks the counter) has no such metric: it is never 0 instead.

*Better* says which way a change is good; *neither* is for figures that describe a run rather than
judge it. Durations on the emulated target rest on its cost model ([emulation.md](emulation.md)).

| metric | unit | better | what it is | source |
|---|---|---|---|---|
"""


def reference() -> str:
    """The page."""
    rows = (
        f"| `{m.name}` | {m.unit} | {m.better.value} | {m.meaning} | {m.source} |\n"
        for m in METRICS
    )
    return _HEAD + "".join(rows)


if __name__ == "__main__":
    print(reference(), end="")
