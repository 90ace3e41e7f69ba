# SPDX-License-Identifier: MIT
"""Perfetto's trace processor reads what `export perfetto` writes, and says the same of the run."""

from collections.abc import Iterator

import numpy as np
import pyarrow.parquet as pq
import pytest

from harness.base.units import PAGE_SIZE
from harness.record.console import Kind, Splat
from harness.record.view import RunView
from harness.report.perfetto import write_perfetto
from tests.support.browser import needs_browser
from tests.support.perfetto_ui import PerfettoUi, open_trace
from tests.support.sample_runs import make_measured_run

pytestmark = needs_browser


@pytest.fixture(scope="module")
def view(tmp_path_factory: pytest.TempPathFactory) -> RunView:
    splat = Splat(Kind.WARN, "WARNING: \x1b[2J </script>", 3 * 10**9)
    run = make_measured_run(tmp_path_factory.mktemp("runs"), 3000, splats=(splat,))
    return RunView.load(run.path)


@pytest.fixture(scope="module")
def ui(view: RunView, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PerfettoUi]:
    root = tmp_path_factory.mktemp("ui")
    write_perfetto(view, root / "run.pftrace")
    with open_trace(root / "profile", root / "run.pftrace") as opened:
        yield opened


def test_every_accept_is_a_slice_on_its_cpu_as_long_as_it_took(
    ui: PerfettoUi, view: RunView
) -> None:
    events = pq.read_table(view.path / "events.parquet")
    for cpu in range(4):
        mine = events.filter(np.asarray(events["cpu"]) == cpu)
        ends = mine["time_ns"].to_numpy()
        # These made-up calls overlap now and then, and slices of one track do not.
        before = np.concatenate([[0], ends[:-1]])
        took = ends - np.maximum(ends - mine["duration_ns"].to_numpy(), before)
        rows = ui.query(
            "select dur from slice join track on track.id = slice.track_id"
            f" where slice.name = 'accept' and track.name = 'CPU {cpu} acceptance' order by ts"
        )
        assert [duration for (duration,) in rows] == took.tolist()


def test_the_counter_follows_nr_unaccepted(ui: PerfettoUi, view: RunView) -> None:
    rows = ui.query(
        "select value from counter join track on track.id = counter.track_id"
        " where track.name = 'unaccepted memory' order by ts"
    )
    samples = pq.read_table(view.path / "vmstat.parquet")["vmstat.nr_unaccepted"].to_pylist()
    assert [value for (value,) in rows] == [pages * PAGE_SIZE for pages in samples]


def test_nothing_was_dropped_or_misread(ui: PerfettoUi) -> None:
    assert ui.query("select name, value from stats where severity = 'error' and value > 0") == []
    # A begin without its end is a slice that never ends.
    assert ui.query("select count(*) from slice where dur < 0") == [[0]]


def test_stages_workers_and_splats_have_their_tracks(ui: PerfettoUi) -> None:
    names = {name for (name,) in ui.query("select name from track union select name from thread")}
    assert {"boot stages", "CPU 3 acceptance", "worker 100"} <= names
    assert ui.query("select name from slice where name like 'warn: %'") == [
        ["warn: WARNING: \\x1b[2J </script>"]
    ]
