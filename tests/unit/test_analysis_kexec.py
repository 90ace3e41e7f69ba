# SPDX-License-Identifier: MIT
"""Kernels started by kexec: what each must have of the memory of the one before."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from harness.analysis.kexec import (
    KexecCycle,
    found_nothing_unaccepted,
    kexec_checks,
    kexec_cycles,
    lkvs_check,
)
from harness.base.status import PreconditionError, Status, UsageError, worst
from harness.record.counters import Counters
from harness.record.rundir import plain
from harness.targets.choose import guest_spec
from harness.workloads.kexec import Kexec
from harness.workloads.lkvs import Lkvs
from harness.workloads.touch import Touch

MEMORY_KIB = 2_042_716


def cycle(**changes: Any) -> KexecCycle:
    usual = KexecCycle(
        took_ns=3_000_000_000,
        route="efi",
        drained_to_pages=None,
        mem_total_kib=MEMORY_KIB,
        next_mem_total_kib=MEMORY_KIB - 12,
        unaccepted_pages=380_928,
        left_pages=370_688,
        next_at_init_pages=325_632,
        next_unaccepted_pages=325_632,
    )
    return structs.replace(usual, **changes)


DRAINED = cycle(drained_to_pages=0, left_pages=0, next_at_init_pages=0, next_unaccepted_pages=0)


def judged(*cycles: KexecCycle) -> Status:
    return worst(check.status for check in kexec_checks(cycles))


def test_a_kernel_finds_what_was_left_to_it_and_no_more() -> None:
    assert judged(cycle(), cycle(unaccepted_pages=325_632, left_pages=325_632)) is Status.PASS
    assert judged(cycle(next_at_init_pages=371_712)) is Status.FAIL
    assert judged(cycle(next_at_init_pages=0)) is Status.FAIL


def test_on_the_direct_route_each_kernel_makes_a_table_of_its_own() -> None:
    assert judged(cycle(route="direct", next_at_init_pages=391_168)) is Status.PASS
    assert judged(cycle(route="direct", next_at_init_pages=0)) is Status.FAIL


def test_memory_that_is_missing_in_the_next_kernel_is_a_failure() -> None:
    assert judged(cycle(next_mem_total_kib=MEMORY_KIB - (128 << 10))) is Status.FAIL
    assert judged(cycle(next_mem_total_kib=-1)) is Status.ERROR


def test_what_is_drained_stays_so() -> None:
    later = structs.replace(DRAINED, unaccepted_pages=0)
    assert judged(DRAINED, later) is Status.PASS
    assert judged(structs.replace(DRAINED, drained_to_pages=1024)) is Status.FAIL
    assert judged(structs.replace(DRAINED, next_at_init_pages=1024)) is Status.FAIL


def test_a_kernel_without_the_feature_passes_nothing() -> None:
    assert kexec_checks(()) == []
    assert judged(cycle(unaccepted_pages=0, left_pages=0, next_at_init_pages=0)) is Status.ERROR
    assert judged(cycle(unaccepted_pages=-1, next_at_init_pages=-1)) is Status.ERROR


def counters(pages: int, marked: int) -> Counters:
    return Counters(
        1, pages, pages, pages * 4, MEMORY_KIB, {0: pages * 4}, (), 0, {"units_marked": marked}
    )


def test_lkvs_kexec_needs_kernels_that_were_started() -> None:
    facts = {"case": "KEXEC", "config": "y"}
    first, last = counters(380_928, 900), counters(325_632, 700)
    assert lkvs_check(facts, first, last, 1, [cycle()]).status is Status.PASS
    assert lkvs_check(facts, first, last, 1, []).status is Status.ERROR
    bad = lkvs_check(facts, first, last, 1, [cycle(next_at_init_pages=0)])
    assert (bad.status, "knows what is unaccepted" in bad.detail) == (Status.FAIL, True)
    assert lkvs_check(facts, counters(0, 0), last, 1, [cycle()]).status is Status.ERROR
    assert lkvs_check({**facts, "config": "n"}, first, last, 1, [cycle()]).status is Status.ERROR


def test_a_kernel_that_was_handed_nothing_has_nothing_to_conserve() -> None:
    first = counters(380_928, 900)
    assert found_nothing_unaccepted(first, counters(0, 0))
    assert not found_nothing_unaccepted(first, counters(325_632, 700))
    assert not found_nothing_unaccepted(counters(0, 0), counters(0, 0))


def test_reports_are_read_as_they_are_written() -> None:
    report = {"workload": "kexec", "cycles": [plain(DRAINED)]}
    assert kexec_cycles([{"workload": "touch"}, report]) == (DRAINED,)
    unreadable: list[dict[str, Any]] = [{}, {"cycles": 3}, {"cycles": [{}]}, {"cycles": [7]}]
    for wrong in unreadable:
        with pytest.raises(PreconditionError):
            kexec_cycles([{"workload": "kexec", **wrong}])


@given(
    st.sampled_from(KexecCycle.__struct_fields__),
    st.one_of(
        st.lists(st.integers()), st.floats(), st.none(), st.dictionaries(st.text(), st.none())
    ),
)
def test_a_field_of_another_kind_is_refused(name: str, value: object) -> None:
    entry = plain(DRAINED) | {name: value}
    if name == "drained_to_pages" and value is None:
        return
    with pytest.raises(PreconditionError):
        kexec_cycles([{"workload": "kexec", "cycles": [entry]}])


def test_the_workload_says_that_it_renews_the_kernel() -> None:
    assert Kexec().replaces_kernel
    assert Lkvs(case="KEXEC_DRAIN").replaces_kernel
    assert not Lkvs(case="FUNC").replaces_kernel
    assert not Touch(bytes=1 << 20).replaces_kernel
    assert Lkvs(case="KEXEC").layers == Kexec.layers == ("kexec",)
    assert Kexec().adapted(guest_spec(memory="2G")) == guest_spec(memory="2G", layers="kexec")
    for wrong in ({"cycles": 0}, {"call": "e"}):
        with pytest.raises(UsageError):
            Kexec(**wrong)
