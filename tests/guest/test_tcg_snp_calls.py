# SPDX-License-Identifier: MIT
"""The emulated SEV-SNP platform, an instruction at a time: RMP, GHCB MSR protocol, VMSA pages.

What is expected is in docs/snp-tcg.md, with the sections of AMD's manuals.
"""

import dataclasses
import struct

import pytest

from tests.support.tiny_guest import (
    CALL,
    DONE,
    GP,
    LOAD,
    MIB,
    PAGE,
    PVALIDATE,
    RDMSR,
    RMPADJUST,
    SHARED,
    STORE,
    USER64,
    VC,
    VMGEXIT,
    WRMSR,
    GuestStoppedError,
    Op,
    Result,
    StartTiny,
    TinyGuest,
    op,
)

pytestmark = pytest.mark.guest

GHCB_MSR, SEV_STATUS = 0xC0010130, 0xC0010131
FAIL_INPUT, FAIL_PERMISSION, FAIL_SIZEMISMATCH = 1, 2, 6
VMSA = 1 << 16
NOT_VALIDATED = 0x404
PRIVATE, SHARE = 1, 2
MSR_REFUSED = 1 << 63


def pvalidate(gva: int, large: bool = False, validate: bool = True) -> Op:
    return op(PVALIDATE, rax=gva, rcx=int(large), rdx=int(validate))


def rmpadjust(gva: int, attributes: int, large: bool = False) -> Op:
    return op(RMPADJUST, rax=gva, rcx=int(large), rdx=attributes)


def ghcb_msr(value: int) -> Op:
    """A request by the MSR protocol; the answer comes in EAX and EDX."""
    halves = {"rax": value & 0xFFFFFFFF, "rdx": value >> 32}
    return op(WRMSR + VMGEXIT + RDMSR, rcx=GHCB_MSR, **halves)


def psc(gpa: int, operation: int) -> Op:
    return ghcb_msr(operation << 52 | gpa | 0x014)


def answer(result: Result) -> int:
    assert result.vector == DONE
    return result.rdx << 32 | result.rax


def outcome(*results: Result) -> list[tuple[int, bool]]:
    """EAX, and whether nothing changed; ZF says what EAX says."""
    assert all(result.vector == DONE for result in results)
    assert all(bool(result.rflags & 0x40) is (result.rax == 0) for result in results)
    return [(result.rax, result.carry) for result in results]


def share(guest: TinyGuest, *pages: int) -> None:
    assert [answer(result) for result in guest.run(*(psc(p, SHARE) for p in pages))] == [
        0x015
    ] * len(pages)


def test_pvalidate_changes_a_page_once_and_says_so(tiny: StartTiny) -> None:
    snp = tiny("snp")
    large = 32 * MIB
    results = snp.run(
        pvalidate(large, large=True),
        pvalidate(large, large=True),
        pvalidate(large, large=True, validate=False),
        pvalidate(large, large=True, validate=False),
        pvalidate(large + 3 * PAGE),  # splits the entry
        pvalidate(large, large=True),
        pvalidate(large + PAGE, large=True),
    )
    assert outcome(*results) == [
        *((0, False), (0, True), (0, False), (0, True)),
        *((0, False), (FAIL_SIZEMISMATCH, False), (FAIL_INPUT, False)),
    ]
    states = snp.states()
    assert states[large + 3 * PAGE][0] == "private"
    assert states[large][0] == "pending"


def test_pvalidate_and_rmpadjust_are_the_kernels(tiny: StartTiny) -> None:
    snp = tiny("snp")
    user = (dataclasses.replace(pvalidate(32 * MIB), segment=USER64), op(RMPADJUST))
    results = snp.run(user[0], dataclasses.replace(user[1], segment=USER64))
    assert [(result.vector, result.error) for result in results] == [(GP, 0)] * 2


def test_a_page_not_validated_raises_vc_with_its_address_in_cr2(tiny: StartTiny) -> None:
    snp = tiny("snp", properties={"on-violation": "inject"})
    page = 40 * MIB
    for code in (LOAD, STORE, CALL):
        raised = snp.one(op(code, rax=page + 8))
        assert (raised.vector, raised.error, raised.cr2) == (VC, NOT_VALIDATED, page + 8)
    assert outcome(snp.one(pvalidate(page))) == [(0, False)]
    assert snp.one(op(LOAD, rax=page)).vector == DONE
    assert snp.statistics()["violations"] == [{"kind": "unaccepted", "count": 3}]


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("policy", ["stop", "inject", "report"])
def test_pvalidate_of_a_shared_page_is_said_to_be_of_a_shared_page(
    tiny: StartTiny, policy: str, large: bool
) -> None:
    snp = tiny("snp", properties={"on-violation": policy})
    page, shared = 32 * MIB, 32 * MIB + (PAGE if large else 0)
    share(snp, shared)
    # The host that makes the page private splits the entry.
    split = large and policy != "stop"
    if policy == "stop":
        with pytest.raises(GuestStoppedError) as stopped:
            snp.one(pvalidate(page, large))
        found = stopped.value.data
    else:
        done = snp.one(pvalidate(page, large))
        assert outcome(done) == [(FAIL_SIZEMISMATCH if split else 0, False)]
        found = snp.statistics()["last-violation"]
        assert snp.states()[shared][0] == ("pending" if split else "private")
    assert (found["kind"], found["state"], found["gpa"]) == ("bad-accept", "shared", shared)


def test_pvalidate_where_there_is_no_memory_stops_the_guest(tiny: StartTiny) -> None:
    snp = tiny("snp", memory=32 * MIB, properties={"on-violation": "inject"})
    with pytest.raises(GuestStoppedError, match="without memory") as stopped:
        snp.one(pvalidate(1 << 30))
    assert stopped.value.data["state"] == "none"


def test_rmpadjust_checks_its_operands(tiny: StartTiny) -> None:
    snp = tiny("snp")
    small, large = 32 * MIB, 34 * MIB
    snp.run(pvalidate(small), pvalidate(large, large=True))
    results = snp.run(
        rmpadjust(small, 1),
        rmpadjust(small, 0),
        rmpadjust(small, 4),
        rmpadjust(small, 1, large=True),
        rmpadjust(large, 1, large=True),
        rmpadjust(large, 1 | VMSA, large=True),
        rmpadjust(large + PAGE, 1, large=True),
    )
    assert [code for code, _ in outcome(*results)] == [
        *(0, FAIL_PERMISSION, FAIL_INPUT, FAIL_SIZEMISMATCH),
        *(0, FAIL_INPUT, FAIL_INPUT),
    ]


def test_rmpadjust_of_a_page_not_validated_says_its_state(tiny: StartTiny) -> None:
    snp = tiny("snp", properties={"on-violation": "inject"})
    raised = snp.one(rmpadjust(32 * MIB, 1))
    assert (raised.vector, raised.error, raised.cr2) == (VC, NOT_VALIDATED, 32 * MIB)
    assert snp.statistics()["last-violation"]["state"] == "pending"


def test_a_vmsa_page_may_be_read_but_not_written(tiny: StartTiny) -> None:
    snp = tiny("snp")
    page = 32 * MIB + PAGE
    before = snp.run(
        pvalidate(page), op(STORE, rax=page, rdx=99), rmpadjust(page, 1 | VMSA), op(LOAD, rax=page)
    )
    assert [result.vector for result in before] == [DONE] * 4
    assert before[-1].rdx == 99
    with pytest.raises(GuestStoppedError) as stopped:
        snp.one(op(STORE, rax=page, rdx=100))
    data = stopped.value.data
    assert (data["kind"], data["access"], data["gpa"]) == ("protected", "write", page)


def test_a_vmsa_page_given_back_is_like_any_other(tiny: StartTiny) -> None:
    snp = tiny("snp")
    page = 32 * MIB + PAGE
    results = snp.run(
        pvalidate(page), rmpadjust(page, 1 | VMSA), rmpadjust(page, 1), op(STORE, rax=page, rdx=1)
    )
    assert [result.vector for result in results] == [DONE] * 4


def test_the_fault_protected_write_writes_to_the_page_just_made_a_vmsa(tiny: StartTiny) -> None:
    snp = tiny("snp", properties={"faults": [{"kind": "protected-write", "nth": 2}]})
    first, second = 32 * MIB + PAGE, 32 * MIB + 2 * PAGE
    snp.run(pvalidate(first), pvalidate(second), rmpadjust(first, 1 | VMSA))
    with pytest.raises(GuestStoppedError) as stopped:
        snp.one(rmpadjust(second, 1 | VMSA))
    data = stopped.value.data
    assert (data["kind"], data["access"], data["gpa"]) == ("protected", "write", second)
    assert [fault["fired"] for fault in snp.statistics()["faults"]] == [1]


def test_the_fault_busy_is_retried_and_not_seen_by_the_guest(tiny: StartTiny) -> None:
    snp = tiny("snp", properties={"faults": [{"kind": "busy", "gpa": 32 * MIB, "count": 3}]})
    page = 32 * MIB
    assert outcome(snp.one(pvalidate(page))) == [(0, False)]
    (level,) = [found for found in snp.statistics()["accepts"] if found["level"] == 0]
    assert {found["result"]: found["calls"] for found in level["results"]} == {"busy": 3, "ok": 1}
    snp.set("faults", [{"kind": "busy", "gpa": page, "count": 2}])
    share(snp, page)
    assert snp.states()[page][0] == "shared"


def test_the_fault_dma_private_stops_the_guest_for_a_device(tiny: StartTiny) -> None:
    snp = tiny("snp", properties={"faults": [{"kind": "dma-private"}]})
    snp.start([pvalidate(32 * MIB)])
    data = snp.stopped().data
    assert (data["kind"], data["access"], data["gpa"]) == ("dma", "device", 32 * MIB)
    assert (data["state"], "vcpu" in data) == ("private", False)
    assert snp.read(32 * MIB, 8) == bytes(8)  # it was not written


def test_the_msr_protocol_answers(tiny: StartTiny) -> None:
    snp = tiny("snp")
    ghcb = 48 * MIB
    requests = {
        0x002: 2 << 48 | 1 << 32 | 51 << 24 | 0x001,
        0x010: ~0xFFF % (1 << 64) | 0x011,
        ghcb | 0x012: ghcb | 0x013,
        0x080: (1 | 2) << 12 | 0x081,
        0x016: 1 << 32 | 0x017,
        3 << 52 | 32 * MIB | 0x014: MSR_REFUSED | 0x015,
        0xABC: 0xABC,  # unknown: as it was
    }
    results = snp.run(*(ghcb_msr(request) for request in requests))
    assert [answer(result) for result in results] == list(requests.values())
    status = snp.one(op(RDMSR, rcx=SEV_STATUS))
    assert (status.rax, status.rdx) == (7, 0)
    calls = {
        call["number"]: call["refused"]
        for call in snp.statistics()["calls"]
        if call["interface"] == "msr"
    }
    assert calls[0xABC] == 1


def test_a_ghcb_has_to_be_shared_where_states_are_checked(tiny: StartTiny) -> None:
    page = 32 * MIB
    call = op(WRMSR + VMGEXIT, rcx=GHCB_MSR, rax=page)
    with pytest.raises(GuestStoppedError) as stopped:
        tiny("snp").one(call)
    assert (stopped.value.data["kind"], stopped.value.data["state"]) == ("shared-buffer", "pending")
    unchecked = tiny("snp", properties={"check": False})
    assert unchecked.one(call).vector == DONE
    # SW_EXITINFO1 and 2: malformed input, the GHCB was not registered.
    assert struct.unpack("<QQ", unchecked.read(page + 0x398, 16)) == (2, 1)


def test_a_termination_request_stops_the_guest_with_its_reason(tiny: StartTiny) -> None:
    snp = tiny("snp")
    with pytest.raises(GuestStoppedError, match="PVALIDATE failed") as stopped:
        snp.one(ghcb_msr(2 << 16 | 1 << 12 | 0x100))
    assert stopped.value.name == "CGS_TCG_FATAL"
    assert stopped.value.data["code"] == 0x102


def test_a_page_shared_and_back_is_not_validated_and_holds_nothing_of_before(
    tiny: StartTiny,
) -> None:
    snp = tiny("snp", properties={"on-violation": "inject"})
    page = 32 * MIB
    kept = b"what was there" * 10
    snp.run(pvalidate(page))
    snp.write(page, kept)
    share(snp, page)
    assert kept not in snp.read(page)
    snp.write(page, struct.pack("<Q", 4711))
    assert snp.one(op(LOAD, rax=SHARED + page)).rdx == 4711
    assert answer(snp.one(psc(page, PRIVATE))) == 0x015
    assert snp.one(op(LOAD, rax=page)).error == NOT_VALIDATED
    assert outcome(snp.one(pvalidate(page))) == [(0, False)]
    assert snp.one(op(LOAD, rax=page)).rdx != 4711


def test_code_and_page_tables_are_private_whatever_the_c_bit_says(tiny: StartTiny) -> None:
    snp = tiny("snp")
    page = 32 * MIB
    snp.run(pvalidate(page))
    snp.write(page, b"\xc3")
    assert snp.one(op(CALL, rax=SHARED + page)).vector == DONE
    assert snp.states()[page][0] == "private"


def test_a_vcpu_held_for_reset_runs_on_after_a_sipi(tiny: StartTiny) -> None:
    snp = tiny("snp", vcpus=2)
    snp.start_others()
    snp.start([ghcb_msr(0x006)], vcpu=1)
    (woken,) = snp.wake(1, vcpu=1)
    assert answer(woken) == 1 << 12 | 0x007
