# SPDX-License-Identifier: MIT
"""A boot study as a table and as a plot."""

import textwrap
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from harness.analysis.bootstudy import MeanInterval, StudyRow
from harness.base.units import GIB, format_ns, format_size
from harness.report import terminal

_TITLE_COLUMNS = 100


def table(rows: Sequence[StudyRow], title: str) -> Table:
    """One row a guest size. Times are to the first userspace instruction."""
    header = [
        "RAM, vCPUs",
        "boots",
        "lazy",
        "eager",
        "eager/lazy",
        "unaccepted at init",
        "accepted by init",
        "could have been",
        "GiB/s per CPU",
    ]
    return terminal.columns(title, header, [_cells(row) for row in rows])


def _cells(row: StudyRow) -> list[str]:
    rate, could = row.gib_per_s, row.could_have_bytes
    return [
        f"{format_size(row.memory_bytes)}, {row.vcpus}",
        f"{row.lazy_init_ns.count}+{row.eager_init_ns.count}",
        _time(row.lazy_init_ns),
        _time(row.eager_init_ns),
        f"{row.eager_over_lazy:.2f}",
        format_size(int(row.unaccepted_at_init_bytes.mean)),
        format_size(int(row.accepted_at_init_bytes.mean)),
        format_size(int(could.mean)) if could else "–",
        f"{rate.mean:.3g}" if rate else "–",
    ]


def _time(value: MeanInterval) -> str:
    if value.high is None:
        return format_ns(value.mean)
    return f"{format_ns(value.mean)} ±{format_ns(value.high - value.mean)}"


def plot(rows: Sequence[StudyRow], title: str, stem: Path) -> tuple[Path, Path]:
    """Write `stem`.svg and `stem`.png: time to userspace over memory, with intervals."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    for vcpus in sorted({row.vcpus for row in rows}):
        some = [row for row in rows if row.vcpus == vcpus]
        sizes = [row.memory_bytes / GIB for row in some]
        for mode, style in (("lazy", "o-"), ("eager", "s--")):
            values = [getattr(row, f"{mode}_init_ns") for row in some]
            means = [value.mean / 1e9 for value in values]
            # Student's t is symmetric: one number each.
            errors = [(value.high or value.mean) / 1e9 - value.mean / 1e9 for value in values]
            axes.errorbar(
                sizes, means, yerr=errors, fmt=style, capsize=3, label=f"{mode}, {vcpus} vCPUs"
            )
    axes.set_xscale("log", base=2)
    axes.set_xticks(sorted({row.memory_bytes / GIB for row in rows}))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("memory of the guest, GiB")
    axes.set_ylabel("time to userspace, s")
    axes.set_ylim(bottom=0)
    axes.set_title(textwrap.fill(title, _TITLE_COLUMNS), fontsize=9)
    if rows:
        axes.legend()
    axes.grid(alpha=0.3)
    paths = (stem.with_suffix(".svg"), stem.with_suffix(".png"))
    for path in paths:
        figure.savefig(path)
    plt.close(figure)
    return paths
