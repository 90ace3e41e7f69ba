# SPDX-License-Identifier: MIT
"""The emulated TDX module, a call at a time: what it answers, what it refuses, what it delivers.

Status codes and structures are those of the TDX module 1.5 (docs/tdx-tcg.md); measurements are
computed again, from the image.
"""

import dataclasses
import hashlib
import struct

import pytest

from tests.support.tiny_guest import (
    CALL,
    CPUID,
    DF,
    DONE,
    GP,
    HOB_AT,
    HOB_SIZE,
    IMAGE_AT,
    KERNEL32,
    LOAD,
    MIB,
    PAGE,
    PVALIDATE,
    RMPADJUST,
    SHARED,
    SHARED_BIT,
    STORE,
    UD,
    USER64,
    VE,
    VMGEXIT,
    GuestStoppedError,
    Op,
    Result,
    StartTiny,
    TinyGuest,
    firmware,
    op,
    tdcall,
    vmcall,
)

pytestmark = pytest.mark.guest

VP_INFO, RTMR_EXTEND, VEINFO_GET, MR_REPORT, CPUIDVE_SET, ACCEPT = 1, 2, 3, 4, 5, 6
VM_RD, VM_WR, VP_RD = 7, 8, 9
RAX, RCX, RDX, R8 = 0, 1, 2, 8
"""Operands, as status codes name them."""
OPERAND_INVALID = 0xC0000100_00000000
NO_VALID_VE_INFO = 0xC0000704_00000000
ALREADY_ACCEPTED = 0x00000B0A_00000000
SIZE_MISMATCH = 0xC0000B0B_00000000
FIELD_ID_INCORRECT = 0xC0000C00_00000000
FIELD_NOT_WRITABLE = 0xC0000C01_00000000
FIELD_VALUE_NOT_VALID = 0xC0000C03_00000000
MAP_GPA, GET_QUOTE, NOTIFY = 0x10001, 0x10002, 0x10004
INVALID_OPERAND, ALIGN_ERROR, UNSUPPORTED = (1 << 63) + 0, (1 << 63) + 2, (1 << 63) + 3
QUOTE_UNAVAILABLE = (1 << 63) + 1
TD_CTLS, NOTIFY_ENABLES, XFAM = 0x1110000300000017, 0x9110000300000010, 0x1110000300000001
SEPT_VE_DISABLE = 1 << 28
EPT_VIOLATION = 48


def accept(gpa: int, level: int = 0) -> Op:
    return tdcall(ACCEPT, rcx=gpa | level)


def status(*results: Result) -> list[int]:
    assert all(result.vector == DONE for result in results)
    return [result.rax for result in results]


def refused(guest: TinyGuest, interface: str) -> dict[int, int]:
    calls = guest.statistics()["calls"]
    found = (call for call in calls if call["interface"] == interface and call["refused"])
    return {call["number"]: call["refused"] for call in found}


def test_tdcall_exists_in_a_td_at_cpl_0_in_64_bit_mode_only(tiny: StartTiny) -> None:
    td = tiny("tdx")
    info = tdcall(VP_INFO)
    results = td.run(
        info,
        dataclasses.replace(info, segment=USER64),
        dataclasses.replace(info, segment=KERNEL32),
    )
    assert [result.vector for result in results] == [DONE, GP, GP]
    assert [result.error for result in results[1:]] == [0, 0]
    assert tiny("snp").one(info).vector == UD


def test_instructions_of_snp_do_not_exist_in_a_td(tiny: StartTiny) -> None:
    results = tiny("tdx").run(op(PVALIDATE), op(RMPADJUST), op(VMGEXIT))
    assert [result.vector for result in results] == [UD] * 3


def test_vp_info_says_what_the_td_is(tiny: StartTiny) -> None:
    td = tiny("tdx", vcpus=2)
    for vcpu in range(2):
        info = td.one(tdcall(VP_INFO), vcpu)
        assert status(info) == [0]
        assert (info.rcx, info.rdx, info.r8, info.r9) == (52, SEPT_VE_DISABLE, 2 | 2 << 32, vcpu)


def test_unknown_leaves_versions_and_reserved_bits_are_refused_and_counted(tiny: StartTiny) -> None:
    td = tiny("tdx")
    leaves = [12, 18, 20, 22, 23, 25, 0xFFFF]
    wrong = [VP_INFO | 1 << 16, VM_RD | 2 << 16, VP_INFO | 1 << 24, VP_INFO | 1 << 63]
    results = td.run(*(tdcall(leaf) for leaf in leaves + wrong))
    assert status(*results) == [OPERAND_INVALID | RAX] * (len(leaves) + len(wrong))
    assert refused(td, "tdcall") == dict.fromkeys(leaves, 1)


def test_acceptance_answers_as_the_module_does(tiny: StartTiny) -> None:
    td = tiny("tdx")
    large, split = 32 * MIB, 34 * MIB
    first = td.run(accept(large, 1), accept(large, 1), accept(large), accept(large + 5 * PAGE))
    assert status(*first) == [0, *[ALREADY_ACCEPTED | 1] * 3]
    small = td.run(accept(split), accept(split), accept(split, 1), accept(split + PAGE))
    assert status(*small) == [0, ALREADY_ACCEPTED | 0, SIZE_MISMATCH | 1, 0]
    wrong = td.run(
        accept(large + PAGE, 1),  # not aligned
        accept(1 << 30, 2),
        accept(large | 1 << 3),
        accept(large | SHARED_BIT),
    )
    assert status(*wrong) == [OPERAND_INVALID | RCX] * 4
    states = td.states()
    assert {states[large + page * PAGE] for page in range(512)} == {("private", 0)}
    assert [states[split + page * PAGE] for page in range(3)] == [
        ("private", 1),
        ("private", 1),
        ("pending", 1),
    ]


def test_an_accepted_page_holds_zeroes_and_a_converted_one_nothing_of_before(
    tiny: StartTiny,
) -> None:
    td = tiny("tdx")
    page = 32 * MIB
    kept = b"what was there" * 10
    to_shared = vmcall(MAP_GPA, r12=page | SHARED_BIT, r13=PAGE)
    to_private = vmcall(MAP_GPA, r12=page, r13=PAGE)
    assert status(*td.run(accept(page))) == [0]
    td.write(page, kept)
    assert td.one(to_shared).r10 == 0
    assert kept not in td.read(page)
    td.write(page, kept)
    assert td.one(to_private).r10 == 0
    assert kept not in td.read(page)
    assert status(td.one(accept(page))) == [0]
    assert td.read(page) == bytes(PAGE)


@pytest.mark.parametrize("policy", ["stop", "inject", "report"])
def test_acceptance_of_a_shared_page_is_said_to_be_of_a_shared_page(
    tiny: StartTiny, policy: str
) -> None:
    td = tiny("tdx", properties={"on-violation": policy})
    page = 32 * MIB
    assert td.one(vmcall(MAP_GPA, r12=(page + PAGE) | SHARED_BIT, r13=PAGE)).r10 == 0
    if policy == "stop":
        with pytest.raises(GuestStoppedError) as stopped:
            td.one(accept(page, 1))
        found = stopped.value.data
    else:
        # Its host converts the page, and the instruction runs again.
        assert status(td.one(accept(page + PAGE))) == [0]
        found = td.statistics()["last-violation"]
        assert td.states()[page + PAGE][0] == "private"
    assert (found["kind"], found["state"]) == ("bad-accept", "shared")
    assert found["gpa"] == page + PAGE


def test_a_pending_page_delivers_ve_and_a_second_one_is_a_double_fault(tiny: StartTiny) -> None:
    td = tiny("tdx", properties={"attributes": 0, "on-violation": "inject"})
    page = 40 * MIB
    for code, qualification in ((LOAD, 0x181), (STORE, 0x182), (CALL, 0x184)):
        raised = td.one(op(code, rax=page + 8))
        assert (raised.vector, raised.error) == (VE, 0)
        told = td.one(tdcall(VEINFO_GET))
        assert status(told) == [0]
        assert (told.rcx, told.rdx) == (EPT_VIOLATION, qualification)
        assert (told.r8, told.r9, told.r10) == (page + 8, page, 0)
    again = td.one(tdcall(VEINFO_GET))
    assert status(again) == [NO_VALID_VE_INFO]
    assert [again.rcx, again.rdx, again.r8, again.r9, again.r10] == [0] * 5
    vectors = [result.vector for result in td.run(op(LOAD, rax=page), op(LOAD, rax=page))]
    assert vectors == [VE, DF]
    # What the first one was is still there to be read.
    assert td.one(tdcall(VEINFO_GET)).r8 == page
    accepted = td.run(accept(page), op(LOAD, rax=page))
    assert [result.vector for result in accepted] == [DONE, DONE]
    assert accepted[1].rdx == 0


def test_a_td_without_ve_for_pending_pages_ends_and_says_why(tiny: StartTiny) -> None:
    td = tiny("tdx", properties={"on-violation": "inject"})
    with pytest.raises(GuestStoppedError, match="#VE is disabled") as stopped:
        td.one(op(LOAD, rax=40 * MIB))
    assert stopped.value.data["kind"] == "unaccepted"


def test_intercepts_deliver_ve_for_the_hypervisors_cpuid_and_for_others_if_asked(
    tiny: StartTiny,
) -> None:
    td = tiny("tdx", properties={"intercepts": True})
    hypervisor = op(CPUID, rax=0x40000000)
    plain = op(CPUID, rax=0)
    results = td.run(plain, hypervisor, tdcall(VEINFO_GET))
    assert [result.vector for result in results] == [DONE, VE, DONE]
    assert (results[2].rcx, results[2].r10) == (10, len(CPUID))
    assert status(td.one(tdcall(CPUIDVE_SET, rcx=4))) == [OPERAND_INVALID | RCX]
    asked = td.run(tdcall(CPUIDVE_SET, rcx=1), plain, tdcall(VEINFO_GET))
    assert [result.vector for result in asked] == [DONE, VE, DONE]
    user = dataclasses.replace(plain, segment=USER64)
    assert td.one(user).vector == DONE  # bit 1 is the user's


def test_a_report_has_the_measurements_and_the_data_given(tiny: StartTiny) -> None:
    td = tiny("tdx")
    buffer = 32 * MIB
    extension = bytes(range(48))
    data = bytes(range(100, 164))
    assert status(td.one(accept(buffer, 1))) == [0]
    td.write(buffer, extension)
    td.write(buffer + 64, data)
    extends = [tdcall(RTMR_EXTEND, rcx=buffer, rdx=index) for index in (1, 1, 3)]
    assert status(*td.run(*extends)) == [0, 0, 0]
    once = hashlib.sha384(bytes(48) + extension).digest()
    rtmr = [bytes(48), hashlib.sha384(once + extension).digest(), bytes(48), once]

    at = buffer + 2 * PAGE
    assert status(td.one(tdcall(MR_REPORT, rcx=at, rdx=buffer + 64))) == [0]
    report = td.read(at, 1024)
    assert report[:4] == bytes([0x81, 0, 0, 0])
    assert report[128:192] == data
    info = report[512:]
    assert report[80:128] == hashlib.sha384(info).digest()
    assert report[224:256] == bytes(32)  # no MAC: nobody is to believe it
    attributes, xfam = struct.unpack_from("<QQ", info)
    assert attributes == SEPT_VE_DISABLE
    assert td.one(tdcall(VM_RD, rdx=XFAM)).r8 == xfam
    assert info[16:64] == mrtd()
    assert [info[208 + 48 * index :][:48] for index in range(4)] == rtmr

    wrong = td.run(
        tdcall(MR_REPORT, rcx=at + 64, rdx=buffer),
        tdcall(MR_REPORT, rcx=at, rdx=buffer + 8),
        tdcall(MR_REPORT, rcx=at, rdx=buffer, r8=1),
        tdcall(RTMR_EXTEND, rcx=buffer + 8, rdx=0),
        tdcall(RTMR_EXTEND, rcx=buffer, rdx=4),
        tdcall(RTMR_EXTEND, rcx=buffer | SHARED_BIT, rdx=0),
    )
    operands = [RCX, RDX, R8, RCX, RDX, RCX]
    assert status(*wrong) == [OPERAND_INVALID | operand for operand in operands]


def mrtd() -> bytes:
    """As the module measures pages that are added, and those that are extended with contents."""
    image = firmware("tdx")
    measured = hashlib.sha384()

    def step(operation: bytes, gpa: int, chunk: bytes = b"") -> None:
        measured.update(operation.ljust(16, b"\0") + struct.pack("<Q", gpa).ljust(112, b"\0"))
        measured.update(chunk)

    for offset in range(0, len(image), PAGE):
        step(b"MEM.PAGE.ADD", IMAGE_AT + offset)
        for chunk in range(offset, offset + PAGE, 256):
            step(b"MR.EXTEND", IMAGE_AT + chunk, image[chunk : chunk + 256])
    for offset in range(0, HOB_SIZE, PAGE):
        step(b"MEM.PAGE.ADD", HOB_AT + offset)
    return measured.digest()


def test_a_quote_is_refused_in_the_buffer_and_bad_buffers_by_status(tiny: StartTiny) -> None:
    td = tiny("tdx")
    buffer = 48 * MIB
    assert td.one(vmcall(MAP_GPA, r12=buffer | SHARED_BIT, r13=2 * PAGE)).r10 == 0

    def quote(gpa: int, size: int) -> int:
        return td.one(vmcall(GET_QUOTE, r12=gpa, r13=size)).r10

    header = struct.pack("<QQII", 1, 0, 1024, 77)
    td.write(buffer, header)
    assert quote(buffer | SHARED_BIT, 2 * PAGE) == 0
    assert struct.unpack("<QQII", td.read(buffer, 24)) == (1, QUOTE_UNAVAILABLE, 1024, 0)
    td.write(buffer, struct.pack("<Q", 2))
    assert quote(buffer | SHARED_BIT, PAGE) == INVALID_OPERAND
    td.write(buffer, header)
    assert quote(buffer, PAGE) == INVALID_OPERAND
    assert quote(buffer | SHARED_BIT, 0) == INVALID_OPERAND
    assert quote(buffer | SHARED_BIT, 100) == ALIGN_ERROR
    assert quote((buffer + 8) | SHARED_BIT, PAGE) == ALIGN_ERROR
    assert td.read(buffer, 24) == header
    with pytest.raises(GuestStoppedError) as stopped:
        quote(buffer | SHARED_BIT, 3 * PAGE)
    assert stopped.value.data["gpa"] == buffer + 2 * PAGE


def test_vmcalls_that_nobody_knows_are_unsupported_and_counted(tiny: StartTiny) -> None:
    td = tiny("tdx")
    results = td.run(
        vmcall(0x1234),
        vmcall(NOTIFY, r12=31),
        vmcall(NOTIFY, r12=32),
        tdcall(0, rcx=0xFC00, r10=5),  # a hypercall of KVM's, which has none here
        tdcall(0, rcx=0xFC01, r11=NOTIFY),
    )
    expected = [UNSUPPORTED, INVALID_OPERAND, 0, -1000 % (1 << 64)]
    assert [result.r10 for result in results[:4]] == expected
    assert results[4].rax == OPERAND_INVALID | RCX
    assert refused(td, "vmcall") == {0x1234: 1}


def test_mapgpa_refuses_what_is_no_range_of_pages(tiny: StartTiny) -> None:
    td = tiny("tdx")
    page = 32 * MIB
    ranges = [(page, 0), (page, 100), (page + 1, PAGE), (SHARED_BIT - PAGE, 2 * PAGE)]
    results = td.run(*(vmcall(MAP_GPA, r12=start, r13=size) for start, size in ranges))
    expected = [INVALID_OPERAND, ALIGN_ERROR, ALIGN_ERROR, INVALID_OPERAND]
    assert [result.r10 for result in results] == expected
    assert [result.r11 for result in results] == [start for start, _ in ranges]


def test_mapgpa_with_a_limit_asks_to_be_called_again_from_there(tiny: StartTiny) -> None:
    td = tiny("tdx", properties={"mapgpa-retry-pages": 16})
    start, size = 32 * MIB | SHARED_BIT, 40 * PAGE
    asked = []
    while size:
        result = td.one(vmcall(MAP_GPA, r12=start, r13=size))
        done = size if result.r10 == 0 else result.r11 - start
        asked.append(result.r10)
        start, size = start + done, size - done
    assert asked == [1, 1, 0]
    states = td.states()
    assert [states[32 * MIB + page * PAGE][0] for page in range(41)] == ["shared"] * 40 + [
        "pending"
    ]


def test_fields_are_read_and_only_those_that_a_guest_may_are_written(tiny: StartTiny) -> None:
    fixed, flexible = tiny("tdx"), tiny("tdx", properties={"flexible-pending-ve": True})
    change = tdcall(VM_WR, rdx=TD_CTLS, r8=0, r9=1)
    assert status(fixed.one(change)) == [FIELD_VALUE_NOT_VALID]
    assert status(flexible.one(change)) == [0]
    values = [td.one(tdcall(VM_RD, rdx=TD_CTLS)).r8 for td in (fixed, flexible)]
    assert values == [1, 0]
    results = fixed.run(
        tdcall(VM_WR, rdx=NOTIFY_ENABLES, r8=1, r9=1),
        tdcall(VM_RD, rdx=NOTIFY_ENABLES),
        tdcall(VM_WR, rdx=XFAM, r8=0, r9=1),
        tdcall(VM_RD, rdx=0x1110000300000777),
        tdcall(VP_RD, rdx=0x2020000300000777),
    )
    assert [result.rax for result in results] == [
        *(0, 0, FIELD_NOT_WRITABLE),
        *[FIELD_ID_INCORRECT] * 2,
    ]
    assert results[1].r8 == 1


def test_shared_memory_is_reached_by_its_shared_address_only(tiny: StartTiny) -> None:
    td = tiny("tdx", properties={"on-violation": "stop"})
    page = 32 * MIB
    assert td.one(vmcall(MAP_GPA, r12=page | SHARED_BIT, r13=PAGE)).r10 == 0
    td.write(page, struct.pack("<Q", 4711))
    assert td.one(op(LOAD, rax=SHARED + page)).rdx == 4711
    with pytest.raises(GuestStoppedError) as stopped:
        td.one(op(LOAD, rax=page))
    assert (stopped.value.data["kind"], stopped.value.data["state"]) == ("private-access", "shared")


def test_code_does_not_run_from_shared_memory(tiny: StartTiny) -> None:
    td = tiny("tdx", properties={"on-violation": "inject"})
    page = 32 * MIB
    assert td.one(vmcall(MAP_GPA, r12=page | SHARED_BIT, r13=PAGE)).r10 == 0
    td.write(page, b"\xc3")
    fault = td.one(op(CALL, rax=SHARED + page))
    assert (fault.vector, fault.cr2) == (14, SHARED + page)
    assert fault.error & 8  # a reserved bit
