# SPDX-License-Identifier: MIT
"""Sizes, specs and the options they come from."""

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.base.emulation import COST_MODELS, Emulation, Route
from harness.base.guest_options import spec_arguments
from harness.base.spec import Accel, AcceptMode, GuestSpec
from harness.base.status import HostError, Status, UsageError, worst
from harness.base.units import GIB, MIB, format_ns, format_size, parse_size
from harness.cli.options import guest_options
from harness.host.reserve import check_room
from harness.qemu.binary import parse_version
from harness.targets.choose import guest_spec


@given(st.integers(1, 1 << 50))
def test_a_number_of_bytes_is_itself(size: int) -> None:
    assert parse_size(str(size)) == size


@given(st.integers(1, 4096), st.sampled_from(["K", "M", "G", "Ki", "MiB", "g"]))
def test_suffixes_are_binary(amount: int, suffix: str) -> None:
    factor = {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30}[suffix[0].lower()]
    text = f"{amount}{suffix}" if not suffix.endswith("i") else f"{amount}{suffix}B"
    assert parse_size(text) == amount * factor


@given(st.text(max_size=12))
def test_any_text_is_a_positive_size_or_refused(text: str) -> None:
    try:
        size = parse_size(text)
    except ValueError:
        return
    assert size > 0


def test_figures_are_printed_in_readable_units() -> None:
    assert format_size(4 * GIB) == "4 GiB"
    assert format_size(62 * GIB + 512 * MIB) == "62.5 GiB"
    assert format_ns(1_310_000) == "1.31 ms"
    assert format_ns(17) == "17 ns"


@given(st.text(max_size=30))
def test_version_of_any_text(text: str) -> None:
    assert all(part >= 0 for part in parse_version(text))


def test_versions_compare_as_numbers() -> None:
    assert parse_version("10.1.0 (Debian)") > parse_version("9.2.4") > parse_version("9.2")


specs = st.builds(
    GuestSpec,
    memory=st.integers(128, 1 << 18).map(lambda n: n * 2 * MIB),
    vcpus=st.integers(2, 255),
    accept=st.sampled_from(AcceptMode),
    accel=st.sampled_from(Accel),
    emulation=st.builds(
        Emulation,
        route=st.sampled_from(Route),
        cost=st.sampled_from(list(COST_MODELS.values())),
        strict=st.booleans(),
        zero=st.booleans(),
    ),
    numa_nodes=st.integers(1, 2),
    trace_boot=st.booleans(),
    extra_cmdline=st.lists(st.sampled_from(["quiet", "memtest=1", "a='b c'"]), max_size=2).map(
        tuple
    ),
)


@given(specs)
def test_the_rerun_options_make_the_same_guest(spec: GuestSpec) -> None:
    seen: list[GuestSpec] = []

    @click.command()
    @guest_options()
    @click.option("--kernel")
    def verb(spec: GuestSpec, kernel: str) -> None:
        seen.append(spec)

    verb.main(spec_arguments(spec, "debian:6.12"), standalone_mode=False)
    assert seen == [spec]


def test_the_kernel_parameter_says_all_of_the_emulation() -> None:
    spec = guest_spec(cost="tdx", zero=True, strict=False, route="efi")
    assert spec.emulation.kernel_parameter() == (
        "route=efi,from=16M,cost=1300000,zero=1,strict=0,hotplug=lazy"
    )


def test_a_model_says_that_it_is_one() -> None:
    for name in ("tdx", "snp"):
        assert "model" in COST_MODELS[name].describe()


def test_more_memory_than_the_host_can_boot_is_a_miss_with_the_figures() -> None:
    with pytest.raises(HostError, match=r"1 TiB needs 16.5 GiB .* 4 GiB are available"):
        check_room(GuestSpec(memory=1 << 40), available=4 * GIB)
    check_room(GuestSpec(memory=64 * GIB), available=4 * GIB)


def test_unusable_memory_sizes_are_refused() -> None:
    for memory in ("128M", "2T", "1025M"):
        with pytest.raises(UsageError):
            guest_spec(memory=memory)


def test_the_worst_verdict_wins_and_none_at_all_is_an_error() -> None:
    assert worst([Status.PASS, Status.MISS, Status.ERROR]) is Status.ERROR
    assert worst([Status.PASS, Status.FAIL, Status.ERROR]) is Status.FAIL
    assert worst([Status.SKIP, Status.PASS]) is Status.PASS
    assert worst([]) is Status.ERROR
