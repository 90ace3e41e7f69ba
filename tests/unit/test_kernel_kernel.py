# SPDX-License-Identifier: MIT
"""What a kernel's own checks cost its guests, by its configuration."""

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.base.overhead import Overhead
from harness.base.spec import GuestSpec
from harness.base.units import GIB, MIB, UNIT_SIZE
from harness.kernel.config import read_fragment
from harness.kernel.kernel import Kernel, overhead
from harness.kernel.version import Version
from harness.suite.need import with_room_for


def kernel(config: Path | None) -> Kernel:
    return Kernel(Path("bzImage"), "6.12", "6.12", "0", config, None, {})


@pytest.fixture
def debug(tmp_path: Path) -> Kernel:
    """A kernel that came out as the fragment `debug` asks."""
    config = tmp_path / ".config"
    settings = read_fragment("debug", Version(6, 12))
    config.write_text("".join(f"{setting.render()}\n" for setting in settings))
    return kernel(config)


def test_a_debug_kernel_takes_an_eighth_of_memory_and_more_time(debug: Kernel) -> None:
    cost = overhead(debug)
    assert cost.memory_share == 1 / 8
    assert cost.time_factor > 1
    assert cost.taken(8 * GIB) == GIB + cost.memory_bytes


def test_other_kernels_cost_nothing_and_unknown_ones_are_taken_for_such(tmp_path: Path) -> None:
    plain = tmp_path / ".config"
    plain.write_text("CONFIG_NUMA=y\n# CONFIG_KASAN is not set\n")
    for some in (kernel(plain), kernel(None)):
        assert overhead(some) == Overhead()
    assert Overhead().gross(12345) == 12345
    assert Overhead().taken(12345) == 0


@given(st.integers(0, 1 << 40), st.sampled_from([0.0, 1 / 8, 1 / 3]), st.integers(0, 1 << 30))
def test_what_is_left_is_what_was_asked_for(memory: int, share: float, more: int) -> None:
    cost = Overhead(share, more)
    gross = cost.gross(memory)
    assert abs(gross - cost.taken(gross) - memory) <= 2


def test_a_guest_gets_the_memory_that_checks_take_on_top() -> None:
    cost = Overhead(memory_share=1 / 8, memory_bytes=7 * MIB)
    spec = GuestSpec(memory=7 * GIB, vcpus=3, numa_nodes=3)
    roomy = with_room_for(spec, cost)
    assert 8 * GIB + 8 * MIB <= roomy.memory < 8 * GIB + 8 * MIB + 3 * UNIT_SIZE
    assert (roomy.memory - spec.memory) % (3 * UNIT_SIZE) == 0
    grows = dataclasses.replace(spec, maxmem=9 * GIB, slots=1)
    assert with_room_for(grows, cost).maxmem == roomy.memory + 2 * GIB
    crash = dataclasses.replace(spec, extra_cmdline=("quiet", "crashkernel=70M"))
    assert with_room_for(crash, cost).extra_cmdline == ("quiet", "crashkernel=88M")
    below = with_room_for(GuestSpec(memory=2560 * MIB), cost)
    assert below.memory == 2814 * MIB, "memory above 4 GiB would be another zone"
    for plain in (grows, crash):
        assert with_room_for(plain, Overhead()) == plain
