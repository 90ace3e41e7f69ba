# SPDX-License-Identifier: MIT
"""LKVS' cases with the preconditions it lacks: what is absent is an ERROR, never a PASS."""

from typing import Any

import pytest

from harness.analysis.kexec import lkvs_check
from harness.base.spec import AcceptMode, GuestSpec
from harness.base.status import Status, UsageError
from harness.base.units import GIB
from harness.record.counters import Counters
from harness.workloads.lkvs import CASES, Lkvs

S = 1_000_000_000


def counters(pages: int, kib: int | None = None, marked: int = 100) -> Counters:
    kib = pages * 4 if kib is None else kib
    return Counters(1, pages, pages, kib, 1 << 20, {0: kib}, (), 0, {"units_marked": marked})


def judge(
    case: str, before: Counters, after: Counters, *, load_ns: int = S, **facts: Any
) -> Status:
    return lkvs_check({"case": case, "config": "y", **facts}, before, after, load_ns).status


SOME, LESS, NONE = counters(4096), counters(2048), counters(0)
ABSENT = counters(-1, -1)


@pytest.mark.parametrize("case", [case for case in CASES if case not in ("KCONFIG", "NEG")])
def test_nothing_unaccepted_is_an_error_in_every_case(case: str) -> None:
    assert judge(case, NONE, NONE) is Status.ERROR
    assert judge(case, ABSENT, ABSENT) is Status.ERROR
    assert judge(case, SOME, LESS, config="n") is Status.ERROR
    if not case.startswith("KEXEC"):  # these want kernels that were started: test_kexec.py
        assert judge(case, SOME, NONE if case.startswith("T_") else LESS) is Status.PASS


def test_the_configuration_is_read_not_assumed() -> None:
    assert judge("KCONFIG", SOME, SOME) is Status.PASS
    assert judge("KCONFIG", SOME, SOME, config="n") is Status.FAIL
    assert judge("KCONFIG", SOME, SOME, config="unknown") is Status.ERROR


def test_eager_passes_only_where_there_was_something_to_accept() -> None:
    assert judge("NEG", NONE, NONE) is Status.PASS
    assert judge("NEG", counters(0, marked=0), counters(0, marked=0)) is Status.ERROR
    assert judge("NEG", ABSENT, ABSENT) is Status.ERROR
    assert judge("NEG", SOME, NONE) is Status.FAIL


def test_counters_that_differ_and_counters_that_stay_are_failures() -> None:
    assert judge("CAL", SOME, counters(2048, kib=4096)) is Status.FAIL
    assert judge("FUNC", SOME, SOME) is Status.FAIL
    assert judge("STRESS_MEMRATE", SOME, LESS, exit_status=2) is Status.FAIL


def test_a_drain_is_judged_by_what_is_left_and_by_its_time_if_asked() -> None:
    assert judge("T_1C_8G_1W", SOME, LESS) is Status.FAIL
    assert judge("T_1C_8G_1W", SOME, NONE, load_ns=11 * S, baseline_s=10) is Status.PASS
    assert judge("T_1C_8G_1W", SOME, NONE, load_ns=12 * S, baseline_s=10) is Status.FAIL


def test_a_case_shapes_its_guest() -> None:
    spec = GuestSpec()
    assert Lkvs(case="NEG").adapt(spec).accept is AcceptMode.EAGER
    large = Lkvs(case="T_32C_96G_8W").adapt(spec)
    assert (large.vcpus, large.memory) == (32, 96 * GIB)
    assert Lkvs(case="FUNC").layers == ("stress-ng",)
    with pytest.raises(UsageError, match="unknown case"):
        Lkvs(case="T_1C")
