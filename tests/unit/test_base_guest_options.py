# SPDX-License-Identifier: MIT
"""One table of guest options: every door follows from it, and rerun commands lead back to it."""

import enum
import functools
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import click
import pytest
from click.testing import CliRunner
from hypothesis import assume, given
from hypothesis import strategies as st

from harness.base import guest_options as table
from harness.base.confidential import Fault, FaultKind
from harness.base.emulation import COST_MODELS, CostModel
from harness.base.options import FLAG, GUEST_DOORS, Door, Option, PackagedFirmware, one_of, option
from harness.base.spec import Accel, Clock, GuestSpec, TargetName
from harness.base.status import UsageError
from harness.base.units import MIB
from harness.cli.app import app
from harness.cli.options import KernelChoice, guest_options
from harness.jobs.nightly.plan import cells
from harness.jobs.nightly.plan_file import parse_plan
from harness.report.reference import option_table
from harness.suite.need import Need
from harness.suite.plugin.options import add_options, given_by
from harness.targets.choose import guest_spec, spec_and_reason
from harness.targets.registry import TARGETS, target_for

FILE = Path(__file__).absolute()
PLAN = """
[[kernel]]
name = "k"
source = "debian:6.12"
[matrix]
{matrix}
[[suite]]
name = "s"
tests = ["tests/guest"]
"""


class Colour(enum.StrEnum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True)
class Painted(GuestSpec):
    """A spec with one field more than the project's."""

    colour: Colour = option(
        Colour.RED, one_of(Colour, "colour"), "The guest has this colour.", targets=("emulated",)
    )


@pytest.fixture
def painted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "SPEC", Painted)


@functools.cache
def verb(_table: Any) -> click.Command:
    return click.command()(guest_options()(click.option("--kernel")(lambda spec, kernel: spec)))


@functools.cache
def pytest_parser(_table: Any) -> pytest.Parser:
    parser = pytest.Parser(_ispytest=True)
    add_options(parser)
    return parser


def by_click(words: Sequence[str]) -> GuestSpec:
    spec = verb(table.SPEC).main(list(words), standalone_mode=False)
    assert isinstance(spec, GuestSpec)
    return spec


def by_pytest(words: Sequence[str]) -> GuestSpec:
    return spec_and_reason(given_by(pytest_parser(table.SPEC).parse(list(words))))[0]


@functools.cache
def values_of(an_option: Option) -> st.SearchStrategy[Any]:
    """Any value that the option can have."""
    kind = an_option.row.kind
    strategies: dict[str, st.SearchStrategy[Any]] = {
        "size": st.integers(128, 1 << 18).map(lambda n: n * 2 * MIB),
        "number": st.integers(1, 255),
        "bits": st.integers(0, (1 << 26) - 1),
        "flag": st.booleans(),
        "text": st.text(st.characters(codec="ascii", min_codepoint=32), max_size=9),
        "file": st.just(FILE),
        "firmware": st.sampled_from([FILE, PackagedFirmware(), PackagedFirmware("forky")]),
        "words": st.lists(
            st.text(st.characters(codec="utf-8", exclude_characters="\0")), max_size=3
        ).map(tuple),
        "names": st.lists(st.sampled_from(["stress-ng", "kexec"]), unique=True).map(tuple),
        "cost model": st.sampled_from(
            [*COST_MODELS.values(), CostModel("custom", 7, "given by the user")]
        ),
        "faults": st.lists(
            st.builds(
                Fault,
                st.sampled_from(FaultKind),
                st.none() | st.integers(0, 1 << 52),
                st.integers(1, 99),
                st.integers(0, 99),
            ),
            max_size=3,
        ).map(tuple),
        "choice": st.sampled_from(list(cast(Any, kind.value_type)))
        if kind.choices
        else st.nothing(),
    }
    return strategies[kind.name]


@st.composite
def specs(draw: st.DrawFn) -> GuestSpec:
    """Any guest that its target can be; up to ten of its options are not at their defaults."""
    target = target_for(draw(st.sampled_from(TargetName)))
    possible = [
        o for o in table.guest_options() if o.name != "target" and o.applies_to(target.name)
    ]
    chosen = draw(st.lists(st.sampled_from(possible), unique=True, max_size=10))
    values = {o.name: draw(values_of(o)) for o in chosen}
    # What only makes a guest together is made to fit.
    if values.get("by_function"):
        values["clock"] = Clock.ICOUNT
    if values.keys() & {"slots", "virtio_mem"}:
        values["maxmem"] = 1 << 40
    if "numa_nodes" in values:
        values["vcpus"] = max(values.get("vcpus", 2), values["numa_nodes"])
    if target.name != "emulated" and values.get("accel", "auto") == "auto":
        # What "auto" becomes depends on this host.
        values["accel"] = draw(st.sampled_from([Accel.KVM, Accel.TCG]))
    if "snp_policy" in values:
        values["snp_policy"] |= 1 << 17
    try:
        spec = table.with_options(table.blank_spec(target.name, 4 << 30), values)
        target.check(spec)
    except UsageError:
        assume(False)
    return spec


@given(specs())
def test_the_rerun_command_makes_the_same_guest_through_every_door(spec: GuestSpec) -> None:
    words = table.spec_arguments(spec, "debian:6.12")
    assert by_click(words) == spec
    assert by_pytest(words) == spec
    assert by_click(shlex.split(shlex.join(words))) == spec


def test_the_rerun_command_says_only_what_differs_from_the_defaults() -> None:
    words = table.spec_arguments(guest_spec(target="emulated", memory="1G", zero=True), "K")
    assert words == ["--target=emulated", "--kernel=K", "--memory=1024M", "--zero"]


def test_a_new_option_is_one_field(painted: None) -> None:
    spec = by_click(["--colour=blue"])
    assert isinstance(spec, Painted)
    assert spec.colour is Colour.BLUE
    assert by_pytest(["--colour=blue"]) == spec
    assert guest_spec(colour="blue") == guest_spec(colour=Colour.BLUE) == spec
    assert "--colour=blue" in table.spec_arguments(spec, "K")
    assert Need.of({"colour": "blue"}).spec(guest_spec()) == spec
    (_, cell) = cells(parse_plan(PLAN.format(matrix='colour = "blue"')))
    assert cell.guest
    assert cell.guest.spec == spec
    assert (
        "| `--colour` | red or blue | red | emulated | everywhere | The guest has" in option_table()
    )
    shown = CliRunner().invoke(click.command()(guest_options()(lambda spec: None)), ["--help"])
    assert "--colour [red|blue]" in shown.output
    with pytest.raises(UsageError, match="--colour is not for tdx guests, only for emulated"):
        guest_spec(target="tdx", colour="blue")
    with pytest.raises(UsageError, match="unknown colour 'green'"):
        by_click(["--colour=green"])


def test_a_door_that_an_option_does_not_name_does_not_have_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    @dataclass(frozen=True)
    class Shy(GuestSpec):
        shy: bool = option(False, FLAG, "The guest is shy.", doors=Door.CLI | Door.PLAN)

    monkeypatch.setattr(table, "SPEC", Shy)
    assert by_click(["--shy"]) == Shy(shy=True)
    with pytest.raises(UsageError, match="no argument 'shy'"):
        Need.of({"shy": True})
    found = cells(parse_plan(PLAN.format(matrix="shy = true")))
    assert {cell.skip for cell in found if cell.suite} == {"pytest has no --shy"}


def test_a_misspelt_option_is_an_error_that_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="no option 'memroy'") as found:
        guest_spec(memroy="4G")
    assert found.value.hint == "did you mean memory?"


@pytest.mark.parametrize(
    "wrong",
    [
        {"vcpus": True},
        {"vcpus": 1.5},
        {"strict": "yes"},
        {"memory": []},
        {"disk": 3},
        {"append": 1},
    ],
)
def test_a_value_of_the_wrong_type_is_an_error_that_names_the_option(wrong: dict[str, Any]) -> None:
    (name,) = wrong
    with pytest.raises(UsageError, match=f"--{name}"):
        guest_spec(**wrong)


def test_auto_takes_no_platform_that_cannot_be_what_is_asked_for() -> None:
    for asked in ({"cost": "tdx"}, {"memory": "1G"}, {"maxmem": "32G"}, {"clock": "icount"}):
        spec, why = spec_and_reason(asked)
        assert (spec.target, why) == (
            TargetName.EMULATED,
            "auto: the options are those of an emulated guest",
        )


def test_a_doors_own_defaults_are_for_the_targets_that_have_the_option() -> None:
    defaults = {"cost": "tdx"}
    assert (
        spec_and_reason({"target": "emulated"}, defaults=defaults)[0].emulation.cost.name == "tdx"
    )
    hardware = {"target": "snp", "accel": "kvm"}
    assert spec_and_reason(hardware, defaults=defaults)[0].emulation.cost.name == "free"
    given = {"target": "emulated", "cost": "snp"}
    assert spec_and_reason(given, defaults=defaults)[0].emulation.cost.name == "snp"


def test_the_first_guests_cost_what_the_hardware_does_that_they_stand_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[GuestSpec] = []

    def for_guest(_kernel: object, _session: object, spec: GuestSpec) -> None:
        asked.append(spec)
        raise UsageError("enough")

    monkeypatch.setattr(KernelChoice, "for_guest", for_guest)
    for words in ("--target=emulated", "--target=tdx", "--target=snp", "--target=snp --cost=tdx"):
        CliRunner().invoke(app, ["quickstart", "--accel=tcg", *words.split()])
    assert [spec.emulation.cost.name for spec in asked] == ["tdx", "tdx", "snp", "tdx"]


def test_every_option_is_explained_by_one_sentence_and_names_real_targets() -> None:
    for an_option in table.guest_options():
        assert re.fullmatch(r"[A-Z0-9].{15,}[^.]\.", an_option.row.help), an_option.name
        assert set(an_option.row.targets) <= set(TargetName), an_option.name
        assert an_option.row.doors & GUEST_DOORS, an_option.name
    assert set(TARGETS) == set(TargetName)


def test_no_verb_has_an_option_of_its_own_with_a_guest_options_name() -> None:
    names = {an_option.flag for an_option in table.guest_options()}
    context = click.Context(app)
    checked = 0
    for verb in app.list_commands(context):
        command = app.get_command(context, verb)
        assert command
        found = [command]
        if isinstance(command, click.Group):
            inner = click.Context(command, parent=context)
            found += [
                c for n in command.list_commands(inner) if (c := command.get_command(inner, n))
            ]
        for one in found:
            flags = [flag for param in one.params for flag in param.opts if flag.startswith("--")]
            assert len(flags) == len(set(flags)), one.name
            checked += len(names & set(flags)) == len(names)
    assert checked > 20
