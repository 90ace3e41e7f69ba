# SPDX-License-Identifier: MIT
"""A boot study's table says what its boots say; its order spreads a drifting host evenly."""

import dataclasses
from pathlib import Path

import pytest
from click.testing import CliRunner
from scipy import stats

from harness.analysis.bootstudy import BootPoint, interval, study
from harness.base.spec import AcceptMode, GuestSpec, TargetName
from harness.base.status import PreconditionError, Status, UsageError
from harness.base.units import GIB
from harness.cli.bootstudy import boot_study
from harness.collect.plan import TraceMode
from harness.record.rundir import write_json
from harness.report.bootstudy import plot
from harness.studies.bootstudy import FILE, BootPlan, Study, load_study, traced

S = 1_000_000_000


def point(memory: int, accept: str, init_s: float, rate: float = 2.0) -> BootPoint:
    lazy = accept == "lazy"
    return BootPoint(
        run="r",
        status=Status.PASS,
        memory_bytes=memory,
        vcpus=2,
        accept=accept,
        clock="wall",
        init_ns=int(init_s * S),
        command_ns=int((init_s + 1) * S),
        unaccepted_at_init_bytes=memory - GIB if lazy else 0,
        accepted_at_init_bytes=GIB if lazy else memory,
        gib_per_s=rate,
    )


POINTS = [
    *(point(4 * GIB, "lazy", s) for s in (1.0, 1.2, 1.1)),
    *(point(4 * GIB, "eager", s) for s in (3.0, 3.2, 3.4)),
    point(16 * GIB, "lazy", 1.5),
    point(16 * GIB, "eager", 9.0),
    point(64 * GIB, "lazy", 2.0),  # never booted eagerly: no row
]


def test_each_size_that_was_booted_both_ways_is_a_row() -> None:
    small, large = study(POINTS)
    assert (small.memory_bytes, large.memory_bytes) == (4 * GIB, 16 * GIB)
    assert small.lazy_init_ns.mean == pytest.approx(1.1 * S)
    assert small.eager_over_lazy == pytest.approx(3.2 / 1.1)
    assert large.eager_over_lazy == 6.0
    # 2 GiB/s for the 1.5 s to init; in the small guest 2.2 GiB of 4.
    assert large.could_have_bytes is not None
    assert large.could_have_bytes.mean == pytest.approx(3 * GIB)
    assert large.accepted_at_init_bytes.mean == GIB


def test_no_more_than_all_could_have_been_accepted() -> None:
    (row,) = study([point(4 * GIB, "lazy", 60), point(4 * GIB, "eager", 90)])
    assert row.could_have_bytes is not None
    assert row.could_have_bytes.mean == 4 * GIB


def test_the_interval_is_students() -> None:
    values = [1.0, 1.2, 1.1]
    found = interval(values)
    test = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((test.low, test.high))
    assert interval([1.0]).low is None
    assert interval([2.0, 2.0]).high == 2.0
    with pytest.raises(PreconditionError):
        interval([])


def test_repetitions_are_outside_and_modes_change_places() -> None:
    specs = BootPlan((4 * GIB, 8 * GIB), (1, 2), 2).specs(GuestSpec())
    assert len(specs) == 16
    first, second = specs[:8], specs[8:]
    assert [s.accept.value for s in first[:2]] == ["lazy", "eager"]
    assert [s.accept.value for s in second[:2]] == ["eager", "lazy"]
    assert {(s.memory, s.vcpus) for s in first} == {(s.memory, s.vcpus) for s in second}
    with pytest.raises(UsageError):
        BootPlan((), (1,), 1)


def record(*points: BootPoint, failures: tuple[dict[str, str], ...] = ()) -> dict[str, object]:
    return {
        "target": "emulated",
        "cost": "cost model 'tdx'",
        "points": points,
        "failures": failures,
    }


def test_a_recorded_study_is_drawn_again(tmp_path: Path) -> None:
    write_json(tmp_path / FILE, record(*POINTS))
    found = load_study(tmp_path)
    assert found == Study(
        "emulated target, cost model 'tdx'", Status.PASS, study(POINTS), failures=()
    )
    svg, png = plot(found.rows, found.title, tmp_path / "boot-study")
    assert svg.read_text().count("<svg") == 1
    assert png.read_bytes().startswith(b"\x89PNG")
    for unreadable in ('{"points": [{}]}', '{"target": "snp", "cost": "real", "points": []}'):
        (tmp_path / FILE).write_text(unreadable)
        with pytest.raises(PreconditionError, match="no boot study"):
            load_study(tmp_path)


def test_drawn_again_it_is_as_bad_as_it_was(tmp_path: Path) -> None:
    missed = {"status": "MISS", "cause": "QEMU died"}
    write_json(tmp_path / FILE, record(*POINTS, failures=(missed,)))
    found = load_study(tmp_path)
    assert (found.status, found.failures) == (Status.MISS, ("MISS: QEMU died",))
    bad = dataclasses.replace(POINTS[0], status=Status.FAIL)
    write_json(tmp_path / FILE, record(bad, failures=(missed,)))
    found = load_study(tmp_path)
    assert (found.status, found.failures) == (Status.FAIL, ("MISS: QEMU died", "FAIL: run r"))
    elsewhere = tmp_path / "not" / "there"
    result = CliRunner().invoke(boot_study, ["--from", str(tmp_path), "--out", str(elsewhere)])
    assert result.exit_code == 1
    assert (elsewhere / "boot-study.svg").exists()
    assert "QEMU died" in result.output


def test_nothing_is_traced_that_the_figures_do_without() -> None:
    for accept in AcceptMode:
        spec, collect = traced(GuestSpec(accept=accept))
        assert (spec.trace_boot, collect.trace) == (False, TraceMode.OFF)
    hardware = GuestSpec(target=TargetName.SNP, memory=16 * GIB)
    assert traced(hardware)[1].trace is TraceMode.AUTO  # nothing else counts there
    eager = dataclasses.replace(hardware, accept=AcceptMode.EAGER)
    assert traced(eager)[1].trace is TraceMode.OFF
