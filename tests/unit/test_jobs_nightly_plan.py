# SPDX-License-Identifier: MIT
"""Plan files: what they expand to, and that nothing in them is misread in silence."""

import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.base.guest_options import guest_options
from harness.base.options import Door
from harness.base.reader import convert
from harness.base.spec import AcceptMode, Clock
from harness.base.status import UsageError
from harness.base.units import GIB
from harness.cli.app import app
from harness.cli.plan import check_plan, check_run_options
from harness.jobs.nightly.estimate import Past, durations, past_of
from harness.jobs.nightly.plan import Cell, cells, guest_points, matches, parse_filter, select
from harness.jobs.nightly.plan_file import Plan, Seconds, parse_duration, parse_plan
from harness.record.night import CellKind

PLAN = """
name = "mm"
[[kernel]]
name = "base"
source = "debian:6.12"
[[kernel]]
name = "patched"
source = "debian:6.12"
patches = ["fix.mbox"]
base = "base"
[matrix]
memory = ["2G", "4G"]
accept = ["lazy", "eager"]
[[suite]]
name = "quick"
tests = ["tests/guest"]
[[workload]]
name = "cost"
workload = "touch"
options = ["--threads=2"]
guest = { clock = "icount" }
[[exclude]]
workload = "cost"
accept = "eager"
reason = "eager boots accept before anything runs"
[limits]
time = "8h"
disk = "5G"
"""


def test_the_cross_product_with_builds_first_and_reasons_for_what_is_left_out() -> None:
    plan = parse_plan(PLAN)
    found = cells(plan)

    assert [cell.kind for cell in found[:2]] == [CellKind.BUILD, CellKind.BUILD]
    suites = [cell for cell in found if cell.kind is CellKind.SUITE]
    measures = [cell for cell in found if cell.kind is CellKind.MEASURE]
    assert len(suites) == 2 * 2 * 2
    # Base and patched are measured together: one cell for both.
    assert len(measures) == 2 * 2
    assert {(cell.kernel, cell.base) for cell in measures} == {("patched", "base")}
    assert all(cell.guest and cell.guest.spec.clock is Clock.ICOUNT for cell in measures)
    eager = [c for c in measures if c.guest and c.guest.spec.accept is AcceptMode.EAGER]
    assert all("eager boots accept before" in cell.skip for cell in eager)
    assert sum(bool(cell.skip) for cell in found) == len(eager) == 2
    assert len({cell.key for cell in found}) == len(found)
    assert plan.limits.time_s == Seconds(8 * 3600)
    assert plan.limits.disk == 5 * GIB


def test_several_matrices_give_the_points_of_all_each_once() -> None:
    several = """[[matrix]]
memory = ["2G", "4G"]
accept = "lazy"
[[matrix]]
memory = "4G"
accept = ["lazy", "eager"]
"""
    plan = parse_plan(
        PLAN.replace('[matrix]\nmemory = ["2G", "4G"]\naccept = ["lazy", "eager"]\n', several)
    )
    found = {cell.guest.label for cell in cells(plan) if cell.suite and cell.guest}
    assert found == {"memory=2G,accept=lazy", "memory=4G,accept=lazy", "memory=4G,accept=eager"}
    keys = [cell.key for cell in cells(plan)]
    assert len(set(keys)) == len(keys)
    with pytest.raises(UsageError, match="no option 'memroy'"):
        parse_plan(PLAN.replace("[matrix]\nmemory", "[[matrix]]\nmemroy"))


def test_an_exclusion_may_list_values_and_must_fit_a_cell() -> None:
    listed = PLAN.replace('workload = "cost"\naccept', 'workload = ["other", "cost"]\naccept')
    assert [c.skip for c in cells(parse_plan(listed))] == [c.skip for c in cells(parse_plan(PLAN))]
    typo = parse_plan(PLAN.replace('workload = "cost"\naccept', 'workload = "costs"\naccept'))
    with pytest.raises(UsageError, match="exclude: no cell has workload = 'costs'"):
        cells(typo)


def test_a_suite_says_which_option_pytest_does_not_have(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = parse_plan(PLAN.replace('memory = ["2G", "4G"]', "numa_nodes = 2"))
    assert {cell.skip for cell in cells(plan) if cell.kind is CellKind.SUITE} == {""}
    without = [
        replace(o, row=replace(o.row, doors=Door.CLI | Door.PLAN)) if o.name == "numa_nodes" else o
        for o in guest_options()
    ]
    monkeypatch.setattr("harness.base.guest_options._options", lambda _: without)
    skips = {cell.skip for cell in cells(plan) if cell.kind is CellKind.SUITE}
    assert skips == {"pytest has no --numa-nodes"}


def test_a_kernel_without_base_is_measured_alone() -> None:
    plan = parse_plan(PLAN.replace('base = "base"\n', ""))
    arms = {(c.kernel, c.base) for c in cells(plan) if c.kind is CellKind.MEASURE}
    assert arms == {("base", None), ("patched", None)}


def test_the_same_plan_gives_the_same_keys() -> None:
    first = [cell.key for cell in cells(parse_plan(PLAN))]
    assert first == [cell.key for cell in cells(parse_plan(PLAN))]


def test_only_keeps_the_builds_that_what_is_left_needs() -> None:
    found = cells(parse_plan(PLAN))
    chosen = select(found, [parse_filter("suite=quick,kernel=patched,memory=2G")])
    assert [cell.kind for cell in chosen] == [CellKind.BUILD, CellKind.SUITE, CellKind.SUITE]
    assert {cell.kernel for cell in chosen} == {"patched"}
    compared = select(found, [parse_filter("workload=cost")])
    assert {cell.kernel for cell in compared if cell.kind is CellKind.BUILD} == {"base", "patched"}
    with pytest.raises(UsageError, match="no cell"):
        select(found, [parse_filter("memory=3G")])
    with pytest.raises(UsageError, match="not a filter"):
        parse_filter("memory")


def test_a_filter_on_a_key_the_cell_lacks_does_not_match() -> None:
    assert not matches(Cell(CellKind.BUILD, "base", "default"), {"memory": "2G"})


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ('name = "mm"', 'name = "m/m"', "not a name"),
        ("[matrix]", "[matrix]\nmemroy = '2G'", "no option 'memroy'"),
        ('memory = ["2G", "4G"]', "memory = 2", "must be a string"),
        ('memory = ["2G", "4G"]', "vcpus = true", "must be a whole number"),
        ('memory = ["2G", "4G"]', "memory = []", "has no value"),
        ('base = "base"', 'base = "bass"', "no other kernel"),
        ('name = "patched"', 'name = "base"', "two of"),
        ('tests = ["tests/guest"]', "", "no tests"),
        ('source = "debian:6.12"', "source = 3", "must be a string"),
        ('source = "debian:6.12"', 'source = "debian:six"', "not a kernel series"),
        ('time = "8h"', 'time = "8 hours"', "not a duration"),
        ('disk = "5G"', 'disk = "lots"', "not a size"),
        ('disk = "5G"', 'disc = "5G"', "unknown key disc"),
        ('accept = "eager"\nreason', "reason", "would"),
        ('options = ["--threads=2"]', "repetitions = 0", "does not hold"),
        ("[[suite]]", "[[suit]]", r"unknown key suit: did you mean suite\?"),
        (
            'name = "patched"',
            'nmae = "patched"',
            r"kernel 2: unknown key nmae: did you mean name\?",
        ),
        (
            'source = "debian:6.12"',
            'suorce = "debian:6.12"',
            r"kernel 1 \(base\): unknown key suorce",
        ),
        ("reason = ", "raeson = ", "exclude 1: cells have no 'raeson'"),
        ("reason = ", "# ", "exclude 1: reason is missing"),
        ('name = "mm"', 'name = "mm', "not TOML"),
    ],
)
def test_a_mistake_is_named(old: str, new: str, complaint: str) -> None:
    text = PLAN.replace('workload = "cost"\naccept', "accept") if complaint == "would" else PLAN
    assert old in text
    with pytest.raises(UsageError, match=complaint):
        cells(parse_plan(text.replace(old, new, 1)))


def test_a_guest_that_cannot_be_is_refused_as_on_the_command_line() -> None:
    with pytest.raises(UsageError, match="outside 256 MiB"):
        guest_points([{"memory": ("1M",)}])


def test_nothing_to_do_is_an_error() -> None:
    with pytest.raises(UsageError, match="nothing to do"):
        parse_plan('[[kernel]]\nname = "a"\nsource = "debian:6.12"\n')
    with pytest.raises(UsageError, match=r"no \[\[kernel\]\]"):
        parse_plan("")


@given(st.text())
def test_any_text_is_a_plan_or_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError):
        parse_plan(text)


junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)


@given(junk, st.data())
def test_a_plan_with_anything_in_one_place_is_a_plan_or_a_usage_error(
    value: object, data: st.DataObject
) -> None:
    """Somewhere in a good plan is what does not belong there."""
    content: Any = tomllib.loads(PLAN)
    place = content
    while True:
        key = data.draw(
            st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place)))
        )
        if not isinstance(place[key], dict | list) or data.draw(st.booleans()):
            break
        place = place[key]
    place[key] = value
    try:
        made = convert(content, Plan, "plan")
    except UsageError as error:
        told = error.cause
        assert told.startswith("plan")
        return
    assert made.kernels
    assert convert(content, Plan, "plan") == made


def test_a_plan_has_what_its_file_says() -> None:
    plan = parse_plan(PLAN)
    given = tomllib.loads(PLAN)
    assert [(k.name, k.source, list(k.patches), k.base) for k in plan.kernels] == [
        (k["name"], k["source"], k.get("patches", []), k.get("base")) for k in given["kernel"]
    ]
    assert {key: list(values) for key, values in plan.matrix[0].items()} == given["matrix"]
    (workload,) = plan.workloads
    assert (workload.workload, workload.guest) == ("touch", {"clock": "icount"})
    (exclude,) = plan.excludes
    assert {**exclude, "reason": exclude.reason} == given["exclude"][0]
    assert [config.name for config in plan.configs] == ["default"]


@given(st.text() | st.from_regex(r"[0-9.]{1,5}\s?[smhd]?", fullmatch=True))
def test_a_duration_is_positive_or_refused(text: str) -> None:
    try:
        seconds = parse_duration(text)
    except UsageError:
        return
    assert seconds > 0


def test_tests_and_options_that_are_not_there_are_found_before_the_night() -> None:
    with pytest.raises(UsageError, match="there is no tests/nowhere"):
        check_plan(parse_plan(PLAN.replace("tests/guest", "tests/nowhere.py::test_x")), app)
    with pytest.raises(UsageError, match="--thread"):
        check_run_options(app, "touch", ("--thread-s=2",))
    check_run_options(app, "touch", ("--threads=2",))


def test_estimates_are_medians_of_what_was_seen_and_none_otherwise(tmp_path: Path) -> None:
    found = cells(parse_plan(PLAN))
    suite = next(cell for cell in found if cell.kind is CellKind.SUITE)
    measure = next(cell for cell in found if cell.kind is CellKind.MEASURE and not cell.skip)
    night = tmp_path / "nights" / "one"
    night.mkdir(parents=True)
    lines = [
        f'{{"event": "end", "like": "{suite.like}", "seconds": {seconds}}}'
        for seconds in (10, 30, 20)
    ]
    lines.append(f'{{"event": "sample", "like": "{measure.like}", "seconds": 4}}')
    (night / "journal.jsonl").write_text("\n".join(lines) + "\n")
    damaged = tmp_path / "nights" / "two"
    damaged.mkdir()
    (damaged / "journal.jsonl").write_text("not json\n")
    kernel = tmp_path / "entries" / "kernel" / "abc"
    kernel.mkdir(parents=True)
    (kernel / "build.json").write_text('{"make_s": 50, "sync_s": 2}')

    past = past_of(tmp_path / "nights", tmp_path / "entries")
    estimate = past.estimate(suite)
    assert estimate is not None
    assert estimate.seconds == 20
    guests = past.estimate(measure)
    assert guests is not None
    assert guests.seconds == 4 * 5 * 2
    build = past.estimate(found[0])
    assert build is not None
    assert build.seconds == 52
    assert Past({}, ()).estimate(suite) is None


def test_events_without_a_duration_say_nothing() -> None:
    assert list(durations([{"event": "end", "like": "x"}, {"event": "y", "seconds": 3}])) == []
