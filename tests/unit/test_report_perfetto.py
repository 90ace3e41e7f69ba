# SPDX-License-Identifier: MIT
"""The Perfetto trace holds every accept, operation, counter and stage, and is well formed.

What Perfetto itself makes of it is in tests/browser/test_perfetto_ui.py.
"""

from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from perfetto.protos.perfetto.trace.perfetto_trace_pb2 import Trace, TrackEvent

from harness.base.status import PreconditionError
from harness.base.units import PAGE_SIZE
from harness.record.console import Kind, Splat
from harness.record.view import RunView
from harness.report.perfetto import write_perfetto
from tests.support.sample_runs import make_measured_run, make_run


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunView, Path]:
    root = tmp_path_factory.mktemp("runs")
    splat = Splat(Kind.WARN, "WARNING: \x1b[2J </script>", 3 * 10**9)
    view = RunView.load(make_measured_run(root, 3000, splats=(splat,)).path)
    path = root / "trace.pftrace"
    write_perfetto(view, path)
    return view, path


@pytest.fixture(scope="module")
def trace(written: tuple[RunView, Path]) -> Any:
    parsed = Trace()
    parsed.ParseFromString(written[1].read_bytes())
    return parsed


def tracks(trace: Any) -> dict[int, Any]:
    return {
        packet.track_descriptor.uuid: packet.track_descriptor
        for packet in trace.packet
        if packet.HasField("track_descriptor")
    }


def slices(trace: Any) -> dict[str, list[tuple[str, int, int]]]:
    """Track's name -> name, begin, duration of each slice. Fails where slices do not pair."""
    names = {uuid: track.name for uuid, track in tracks(trace).items()}
    found = defaultdict(list)
    open_: dict[int, tuple[str, int]] = {}
    for packet in trace.packet:
        event = packet.track_event
        if event.type == TrackEvent.TYPE_SLICE_BEGIN:
            assert event.track_uuid not in open_
            open_[event.track_uuid] = (event.name, packet.timestamp)
        elif event.type == TrackEvent.TYPE_SLICE_END:
            name, begin = open_.pop(event.track_uuid)
            assert packet.timestamp >= begin
            found[names[event.track_uuid]].append((name, begin, packet.timestamp - begin))
    assert not open_
    return found


def test_every_event_is_on_a_track_that_is_described(trace: Any) -> None:
    described = tracks(trace)
    for packet in trace.packet:
        assert packet.trusted_packet_sequence_id == 1
        if packet.HasField("track_event"):
            assert packet.track_event.track_uuid in described
    for track in described.values():
        assert not track.parent_uuid or track.parent_uuid in described


def test_accepts_are_on_their_cpus_with_their_durations(
    written: tuple[RunView, Path], trace: Any
) -> None:
    events = pq.read_table(written[0].path / "events.parquet")
    on_tracks = slices(trace)
    for cpu in range(4):
        found = [s for s in on_tracks[f"CPU {cpu} acceptance"] if s[0] == "accept"]
        mine = events.filter(np.asarray(events["cpu"]) == cpu)
        assert len(found) == mine.num_rows
        ends = [begin + took for _, begin, took in found]
        assert ends == sorted(ends)
    shift = min(packet.timestamp for packet in trace.packet if packet.HasField("track_event"))
    assert shift == 0  # QEMU's spawn


def test_counters_stages_operations_and_splats_are_there(
    written: tuple[RunView, Path], trace: Any
) -> None:
    names = {uuid: track.name for uuid, track in tracks(trace).items()}
    counted = [
        packet.track_event.counter_value
        for packet in trace.packet
        if packet.track_event.type == TrackEvent.TYPE_COUNTER
        and names[packet.track_event.track_uuid] == "unaccepted memory"
    ]
    samples = pq.read_table(written[0].path / "vmstat.parquet")["vmstat.nr_unaccepted"]
    assert counted == [pages * PAGE_SIZE for pages in samples.to_pylist()]
    on_tracks = slices(trace)
    assert [name for name, _, _ in on_tracks["boot stages"]][-1] == "to first_command"
    assert len(on_tracks["worker 100"]) == 200
    (instant,) = [p for p in trace.packet if p.track_event.type == TrackEvent.TYPE_INSTANT]
    assert instant.track_event.name == "warn: WARNING: \\x1b[2J </script>"


def test_a_run_that_did_not_end_is_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path, finished=False)
    with pytest.raises(PreconditionError, match="not finished"):
        write_perfetto(RunView.load(run.path), tmp_path / "t")
