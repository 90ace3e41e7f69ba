# SPDX-License-Identifier: MIT
"""Known defects are set aside for their own signal, test and versions, and for nothing else."""

from pathlib import Path

import pytest

from harness.base.spec import TargetName
from harness.base.status import Status, UsageError
from harness.kernel.version import Version
from harness.record.check import Check
from harness.suite.judge import (
    Expectation,
    expected_on,
    judge_test,
    limits,
    load_expectations,
)
from harness.suite.operations import OPERATIONS

ENTRY = """
[[expectation]]
id = "C"
tests = ["test_parallel.py::test_waits*"]
signals = ["waiting"]
since = "6.12"
before = "7.4"
reason = "the guard makes neighbours collide"
"""
EMULATED, TDX, SNP = TargetName.EMULATED, TargetName.TDX, TargetName.SNP
TEST = "test_parallel.py::test_waits[8]"
FINE = Check("fine", Status.PASS, "")
WAITING = Check("waiting", Status.FAIL, "ratio 3", "waiting")
OTHER = Check("other", Status.FAIL, "worse", "double-accept")


@pytest.fixture
def known(tmp_path: Path) -> tuple[Expectation, ...]:
    path = tmp_path / "expectations.toml"
    path.write_text(ENTRY)
    return load_expectations(path)


def test_a_defect_of_some_targets_is_expected_on_those_alone(tmp_path: Path) -> None:
    path = tmp_path / "expectations.toml"
    path.write_text(ENTRY + ENTRY.replace('"C"', '"D"') + 'targets = ["emulated"]\n')
    found = [[e.id for e in expected_on(target, path)] for target in (EMULATED, TDX)]
    assert found == [["C", "D"], ["C"]]


def test_the_carried_file_is_readable_and_each_entry_names_a_reason() -> None:
    entries = load_expectations()
    assert all(entry.reason and (entry.signals or entry.at_most) for entry in entries)
    assert {name for entry in entries for name in entry.at_most} <= set(OPERATIONS)


def test_random_sequences_do_what_ends_their_guest_no_more_than_it_can_bear() -> None:
    name = "test_random.py::test_no_sequence_of_operations_breaks_an_invariant"

    def allowed(target: TargetName, version: str, test: str = name) -> dict[str, int]:
        return limits(test, Version.parse(version), expected_on(target))

    assert allowed(SNP, "7.3.4") == {"cpu": 2}
    assert allowed(SNP, "6.12.117") == {"cpu": 2, "kexec": 0}
    assert allowed(EMULATED, "6.12.117") == allowed(TDX, "6.12.117") == {"kexec": 0}
    assert allowed(EMULATED, "7.3.4") == allowed(SNP, "7.3.4", "test_lists.py::test_any") == {}


def test_the_smallest_limit_counts_and_need_not_show(tmp_path: Path) -> None:
    path = tmp_path / "expectations.toml"
    entry = ENTRY.replace('signals = ["waiting"]', "at_most = { cpu = 2 }")
    path.write_text(entry + entry.replace("cpu = 2", "cpu = 1"))
    known = load_expectations(path)
    assert limits(TEST, Version(6, 12), known) == {"cpu": 1}
    assert judge_test([FINE], TEST, Version(6, 12), known).status is Status.PASS


@pytest.mark.parametrize(("short_of_unit", "known"), [(0, False), (1, True), (64, True)])
def test_a_guard_that_is_gone_is_no_known_defect(short_of_unit: int, known: bool) -> None:
    """A kernel that has lost the guard altogether must not pass for one with the known defect."""
    name = f"test_guard.py::test_a_range_that_ends_in_a_units_last_page_is_guarded[{short_of_unit}]"
    failed = Check("guard", Status.FAIL, "", "guard")
    verdict = judge_test([FINE, failed], name, Version.parse("6.12.117"), load_expectations())
    assert verdict.status is (Status.PASS if known else Status.FAIL)
    assert bool(verdict.expected) is known


def test_a_known_defect_is_set_aside(known: tuple[Expectation, ...]) -> None:
    verdict = judge_test([FINE, WAITING], TEST, Version(6, 12, 107), known)
    assert verdict.status is Status.PASS
    assert [entry.id for entry in verdict.expected] == ["C"]
    assert verdict.signals == ("waiting",)


@pytest.mark.parametrize(
    ("checks", "test", "version"),
    [
        ([WAITING, OTHER], TEST, Version(6, 12)),
        ([WAITING], "test_bulk.py::test_waits", Version(6, 12)),
        ([WAITING], TEST, Version(7, 4)),
        ([WAITING], TEST, Version(6, 11, 9)),
    ],
)
def test_another_signal_test_or_version_is_a_fail(
    checks: list[Check], test: str, version: Version, known: tuple[Expectation, ...]
) -> None:
    assert judge_test([FINE, *checks], test, version, known).status is Status.FAIL


def test_a_known_defect_that_no_longer_shows_fails_and_says_so(
    known: tuple[Expectation, ...],
) -> None:
    verdict = judge_test([FINE], TEST, Version(6, 12), known)
    assert verdict.status is Status.FAIL
    assert "known defect C shows" in verdict.cause


def test_error_is_never_hidden_by_a_known_defect(known: tuple[Expectation, ...]) -> None:
    broken = Check("precondition", Status.ERROR, "nothing there", "precondition")
    assert judge_test([WAITING, broken], TEST, Version(6, 12), known).status is Status.ERROR


def test_no_checks_at_all_is_an_error() -> None:
    assert judge_test([], TEST, Version(6, 12), ()).status is Status.ERROR


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("[[expectation]]\nid = 'X'\n", r"expectation 1 \(X\): tests is missing"),
        (ENTRY.replace("\nreason =", "\nreasen ="), "unknown key reasen: did you mean reason?"),
        (ENTRY + "colour = 'red'\n", "unknown key colour"),
        (ENTRY + "at_most = { cpu = -1 }\n", "at_most"),
        (ENTRY.replace('["waiting"]', "[]"), "tests, and signals or at_most, must not be empty"),
        (ENTRY.replace('["waiting"]', '"waiting"'), "signals must be a list, not 'waiting'"),
        (ENTRY.replace('"6.12"', '"six"'), "not a version"),
        ("[[expectations]]\n", "unknown key expectations: did you mean expectation"),
        ("nonsense", "expectations.toml"),
    ],
)
def test_a_bad_file_is_refused_with_what_is_wrong(text: str, wrong: str, tmp_path: Path) -> None:
    path = tmp_path / "expectations.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match=wrong):
        load_expectations(path)
