# SPDX-License-Identifier: MIT
"""The suite's machinery without a guest: needs, tiers, hooks' results, windows, reproducers."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock, Mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.base.status import PreconditionError, UsageError
from harness.record.console import Kind
from harness.suite import window
from harness.suite.hook import parse_result, why_no_hooks
from harness.suite.need import Need, Tier
from harness.suite.operations import OPERATIONS, Operation, load_sequence, save_sequence
from harness.suite.pool import Pool
from harness.targets.choose import guest_spec

COUNTERS = {
    "monotonic_ns": 1,
    "nr_unaccepted": 1024,
    "nr_free_pages": 2048,
    "meminfo_unaccepted_kib": 4096,
    "mem_total_kib": 9000,
    "nodes": [],
    "zones": [],
    "buddy_pages": 1024,
    "emulation": {"accept_units": 7, "in_flight": 0},
    "vmstat": {"nr_unaccepted": 1024},
}
STATS = "overrun: 0\ncommit overrun: 0\ndropped events: 0\n"
EVENT = (
    "  cvm-77 [001] d..1. 12.000345: accept_memory: start=0x200000 end=0x600000 units=2 first=1 "
    "duration_ns=900 wait_ns=0 irqs_off=0 caller=__accept_page+0x1/0x2\n"
)


def cut(after: int = 7) -> str:
    parts = [json.dumps(COUNTERS) + "\n", STATS, STATS, "# tracer\n" + EVENT]
    return f"{window._MARK}\n".join([*parts, f"accept_units {after}\n"])


def test_a_need_changes_only_what_it_names() -> None:
    base = guest_spec(memory="4G", vcpus=3, append="quiet")
    spec = Need.of({"memory": "1G", "cost": "tdx", "append": ("cma=32M",)}).spec(base)
    assert (spec.memory, spec.vcpus) == (1 << 30, 3)
    assert spec.emulation.cost.name == "tdx"
    assert spec.extra_cmdline == ("cma=32M", "quiet")  # the command line's words come last and win


@pytest.mark.parametrize(
    "arguments", [{"memroy": "1G"}, {"splats": ("nonsense",)}, {"splats": ("oom", "x")}]
)
def test_a_need_that_is_misspelt_is_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        Need.of(arguments)


def test_accepting_ahead_takes_large_calls_and_eager_needs_nothing_unaccepted() -> None:
    assert Need.of({"ahead": True}).large_calls
    assert Need.of({"accept": "eager"}).unaccepted_pages == 0
    assert Need.of({"splats": ("oom",)}).expected_splats == {Kind.OOM}


def test_tiers_are_ordered_and_a_wrong_one_is_refused() -> None:
    assert Tier.parse("quick") < Tier.parse("full") < Tier.parse("soak")
    with pytest.raises(UsageError, match="unknown tier"):
        Tier.parse("slow")


def test_a_hooks_result_is_numbers_by_name() -> None:
    assert parse_result("done 3\nfirst 0xff\n") == {"done": 3, "first": 255}


@given(st.text(max_size=200))
def test_a_hooks_result_is_read_or_refused_never_anything_else(text: str) -> None:
    with contextlib.suppress(PreconditionError):
        assert all(isinstance(value, int) for value in parse_result(text).values())


def test_a_window_is_read_with_its_events() -> None:
    reading = window._parse(cut())
    assert reading.counters.unaccepted_pages == 1024
    assert [event.units for event in reading.events] == [2]
    assert reading.lost == 0
    assert reading.at_rest


@pytest.mark.parametrize("text", [cut(after=9), cut().replace('"in_flight": 0', '"in_flight": 1')])
def test_a_window_is_not_at_rest_while_memory_is_being_accepted(text: str) -> None:
    assert not window._parse(text).at_rest


@pytest.mark.parametrize(
    "text", ["", "{}", cut().replace("overrun", "0verrun"), cut()[:40], cut()[:-9]]
)
def test_a_window_that_is_damaged_is_refused(text: str) -> None:
    with pytest.raises(PreconditionError):
        window._parse(text)


def test_a_reproducer_comes_back_as_it_was_written(tmp_path: Path) -> None:
    steps = [Operation(name, {"order": 3, "gfp": "atomic"}) for name in OPERATIONS]
    save_sequence(tmp_path / "s.json", steps)
    assert load_sequence(tmp_path / "s.json") == steps


@pytest.mark.parametrize("text", ["{}", "[1]", '[{"do": "rm"}]', '[{"do": "free", "x": []}]', "["])
def test_a_reproducer_that_is_none_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "s.json").write_text(text)
    with pytest.raises(UsageError):
        load_sequence(tmp_path / "s.json")


def test_a_guest_that_does_not_prove_itself_is_booted_once() -> None:
    boots = Mock()

    @contextlib.contextmanager
    def boot(spec: object) -> Iterator[Any]:
        boots()
        raise PreconditionError("no proof")
        yield

    pool = Pool(boot)
    spec, need = guest_spec(memory="1G"), Need()
    for _ in range(3):
        with pytest.raises(PreconditionError, match="no proof"):
            pool.take(spec, need)
    assert boots.call_count == 1


def test_after_a_test_that_accepts_ahead_only_its_like_use_the_guest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    observer = Mock(last=Mock(unaccepted_pages=1 << 20))
    monkeypatch.setattr("harness.suite.pool.Observer", lambda run: observer)
    boot = MagicMock()
    pool = Pool(boot)
    spec, plain, ahead = guest_spec(memory="1G"), Need(), Need.of({"ahead": True})
    assert pool.take(spec, plain) is pool.take(spec, ahead)
    pool.take(spec, ahead).ahead = True  # what the plugin does when such a test is over
    pool.take(spec, ahead)
    assert boot.call_count == 1
    assert not pool.take(spec, plain).ahead
    assert boot.call_count == 2


TIERED = """
import pytest

def test_quick():
    pass

@pytest.mark.tier("full")
def test_full():
    pass

@pytest.mark.tier("soak")
def test_soak():
    pass
"""


@pytest.mark.parametrize(("tier", "passed"), [("quick", 1), ("full", 2), ("soak", 3)])
def test_a_tier_includes_those_before_it(pytester: pytest.Pytester, tier: str, passed: int) -> None:
    pytester.makepyfile(TIERED)
    result = pytester.runpytest_subprocess(f"--tier={tier}", "--verdicts=v.jsonl")
    result.assert_outcomes(passed=passed, deselected=3 - passed)
    lines = (pytester.path / "v.jsonl").read_text().splitlines()
    assert [json.loads(line)["status"] for line in lines] == ["PASS"] * passed


def test_a_wrong_tier_is_a_usage_error(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(TIERED)
    assert pytester.runpytest_subprocess("--tier=slow").ret == pytest.ExitCode.USAGE_ERROR


def guest_with_hooks(answers: dict[str, tuple[int, str]]) -> Any:
    """A run whose guest answers commands, by their first word, with exit status and output."""
    run = MagicMock()

    def answer(command: str, **_: object) -> Mock:
        status, text = answers.get(command.split()[0], (0, ""))
        return Mock(exit_status=status, text=text, stderr=text.encode())

    run.guest.run.side_effect = answer
    return run


@pytest.mark.parametrize(
    ("said", "log", "reason"),
    [
        ("insmod: can't insert: Key was rejected by service", "", "only modules that are signed"),
        ("insmod: can't insert: Required key not available", "", "only modules that are signed"),
        (
            "insmod: can't insert: Operation not permitted",
            "[1.0] Lockdown: insmod: unsigned module loading is restricted; see man page",
            "is locked down",
        ),
    ],
)
def test_a_kernel_that_takes_no_unsigned_module_is_a_reason_to_skip(
    said: str, log: str, reason: str
) -> None:
    run = guest_with_hooks({"[": (1, ""), "insmod": (1, said), "dmesg": (0, log)})
    assert reason in why_no_hooks(run)
    assert reason in why_no_hooks(run)  # asked once
    assert run.guest.put.call_count == 1


@pytest.mark.parametrize(
    ("log", "cause"),
    [
        ("[2.0] unaccepted_test: version magic '6.12.9' should be '6.12.8'", "version magic"),
        ("[2.0] unaccepted_test: no accept_memory() in this kernel", r"no accept_memory\(\)"),
        ("[2.0] failed to validate module [unaccepted_test] BTF: -22", "Invalid module format"),
    ],
)
def test_a_module_that_does_not_fit_is_an_error_with_the_kernels_words(
    log: str, cause: str
) -> None:
    said = "insmod: can't insert: Invalid module format"
    taint = "[1.0] unaccepted_test: loading out-of-tree module taints kernel."
    run = guest_with_hooks({"[": (1, ""), "insmod": (1, said), "dmesg": (0, f"{log}\n{taint}")})
    with pytest.raises(PreconditionError, match=cause) as caught:
        why_no_hooks(run)
    assert log in caught.value.details


def test_hooks_that_are_built_in_are_not_loaded_and_have_the_early_ones() -> None:
    run = guest_with_hooks({"printf": (0, "has_early 1\n")})
    assert why_no_hooks(run, early=True) == ""
    assert not run.guest.put.called


def test_hooks_of_a_module_have_no_early_ones() -> None:
    run = guest_with_hooks({"printf": (0, "has_early 0\n")})
    assert why_no_hooks(run) == ""
    assert "comes before modules" in why_no_hooks(run, early=True)
