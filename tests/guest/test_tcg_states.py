# SPDX-License-Identifier: MIT
"""Page states of the emulated platforms where it is hard to be right: two vCPUs at one page, and
whatever a guest has done, saved and restored.
"""

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.support.tiny_guest import (
    DONE,
    LOAD,
    MIB,
    PAGE,
    PVALIDATE,
    RDMSR,
    RMPADJUST,
    SHARED,
    SHARED_BIT,
    STORE,
    VMGEXIT,
    WRMSR,
    Op,
    Result,
    StartTiny,
    TinyGuest,
    assemble,
    op,
    tdcall,
    vmcall,
)

pytestmark = pytest.mark.guest

PLATFORMS = ("tdx", "snp")
LARGE = 2 * MIB
FIRST = 32 * MIB
REGIONS = 48
ROUNDS = 40
"""Two vCPUs need both processors at the same time to meet, which others may have."""
GHCB_MSR = 0xC0010130
MAP_GPA = 0x10001

# R12: a region and the size of its page, RBX: how many regions. R13 counts the answers "busy", R14
# those that changed the pages, R15 those that found nothing to do, R9 any other.
ACCEPT_ALL = {
    "tdx": """
        again: movl $6, %eax
        movq %r12, %rcx
        .byte 0x66, 0x0f, 0x01, 0xcc
        shrq $32, %rax
        jz changed
        cmpl $0xb0a, %eax
        je found
        cmpl $0x80000200, %eax
        jne other
        incl %r13d
        jmp again
        other: incl %r9d
        found: incl %r15d
        jmp next
        changed: incl %r14d
        next: addq $0x200000, %r12
        decl %ebx
        jnz again
    """,
    "snp": """
        again: movq %r12, %rax
        movl $1, %ecx
        movl $1, %edx
        .byte 0xf2, 0x0f, 0x01, 0xff
        jc found
        testl %eax, %eax
        jz changed
        incl %r9d
        found: incl %r15d
        jmp next
        changed: incl %r14d
        next: addq $0x200000, %r12
        decl %ebx
        jnz again
    """,
}


def forget_all(guest: TinyGuest) -> None:
    """Make all regions pending again, with contents that acceptance has to clear."""
    size = REGIONS * LARGE
    if guest.platform == "tdx":
        ranges = (FIRST | SHARED_BIT, FIRST)
        results = guest.run(*(vmcall(MAP_GPA, r12=start, r13=size) for start in ranges))
        assert [result.r10 for result in results] == [0, 0]
    else:
        regions = range(FIRST, FIRST + size, LARGE)
        results = guest.run(*(op(PVALIDATE, rax=region, rcx=1) for region in regions))
        assert {result.rax for result in results} == {0}


def accepts(guest: TinyGuest, level: int) -> Mapping[str, int]:
    (found,) = (calls for calls in guest.statistics()["accepts"] if calls["level"] == level)
    return {result["result"]: result["calls"] for result in found["results"]}


@pytest.mark.parametrize("platform", PLATFORMS)
def test_two_vcpus_that_accept_the_same_pages_meet_and_each_page_is_accepted_once(
    tiny: StartTiny, platform: str
) -> None:
    guest = tiny(
        platform,
        vcpus=2,
        memory=FIRST + REGIONS * LARGE,
        properties={"keep-contents": True},
    )
    if platform == "snp":
        guest.start_others()
    code = assemble(ACCEPT_ALL[platform], guest.directory)
    size = 1 if platform == "tdx" else 0
    total = {"r13": 0, "r14": 0, "r15": 0}
    for done in range(1, ROUNDS + 1):
        for vcpu in range(2):
            guest.start([op(code, r12=FIRST + size, rbx=REGIONS)], vcpu)
        for vcpu in range(2):
            (result,) = guest.finish(1, vcpu)
            assert (result.vector, result.r9) == (DONE, 0)
            for name in total:
                total[name] += result.registers[name]
        states = guest.states()
        pages = {states[FIRST + page * PAGE] for page in range(REGIONS * LARGE // PAGE)}
        assert {state for state, _ in pages} == {"private"}
        if accepts(guest, 1).get("busy") and done > 1:
            break
        forget_all(guest)
    counted = accepts(guest, 1)
    assert total["r14"] == total["r15"] == done * REGIONS
    assert counted["ok"] == counted["already"] == total["r14"]
    assert counted.get("busy"), f"they did not meet in {ROUNDS} rounds"
    if platform == "tdx":
        assert counted["busy"] == total["r13"]
    balanced(guest)


@pytest.mark.parametrize("platform", PLATFORMS)
def test_a_vcpu_that_accepts_and_one_that_converts_lose_no_page(
    tiny: StartTiny, platform: str
) -> None:
    guest = tiny(platform, vcpus=2, memory=FIRST + 8 * MIB, properties={"on-violation": "inject"})
    if platform == "snp":
        guest.start_others()
    numbers = random.Random(7)
    pages = [FIRST + PAGE * numbers.randrange(1024) for _ in range(200)]
    if platform == "tdx":
        acceptances = [tdcall(6, rcx=page) for page in pages]
        conversions = [
            vmcall(MAP_GPA, r12=page | numbers.choice((0, SHARED_BIT)), r13=PAGE) for page in pages
        ]
    else:
        acceptances = [op(PVALIDATE, rax=page, rdx=numbers.randrange(2)) for page in pages]
        conversions = [psc(page, numbers.choice((1, 2))) for page in pages]
    for _ in range(10):
        guest.start(acceptances, 0)
        guest.start(conversions, 1)
        for vcpu in range(2):
            assert {result.vector for result in guest.finish(len(pages), vcpu)} == {DONE}
        balanced(guest)


def balanced(guest: TinyGuest) -> None:
    """Pages pending, by the flow of pages and by the states."""
    answer = guest.going
    flow, states = answer["flow"], [state for state, _ in guest.states().values()]
    pending = (
        *(answer["at-launch"]["pending"], flow["plugged"], flow["shared-to-pending"]),
        *(flow["private-to-pending"], -flow["accepted"], -flow["pending-to-shared"]),
        -flow["unplugged"],
    )
    assert sum(pending) == states.count("pending") == answer["pages"]["pending"]
    assert states.count("private") == answer["pages"]["private"]


# Saved and restored.

PROPERTIES: Mapping[str, Mapping[str, object]] = {
    "tdx": {"attributes": 0, "flexible-pending-ve": True, "on-violation": "inject"},
    "snp": {"on-violation": "inject"},
}
VCPU = (b"\x05\x0bcpu/cgs-tcg", 7 * 8 + 1 + 4 * 8 + 1 + 1)
"""A subsection of each vCPU in the stream of a saved guest, and the size of its fields
(cgs/vmstate.c). 5 is QEMU_VM_SUBSECTION."""


def psc(page: int, operation: int) -> Op:
    halves = {"rax": (page | 0x014) & 0xFFFFFFFF, "rdx": operation << 20 | page >> 32}
    return op(WRMSR + VMGEXIT + RDMSR, rcx=GHCB_MSR, **halves)


class Doings:
    """What a guest does at random: everything that changes the state of pages, vCPUs, platform."""

    def __init__(self, platform: str, seed: int) -> None:
        self._random = random.Random(seed)
        self._platform = platform

    def some(self, count: int) -> list[Op]:
        """The next ones."""
        kinds = (
            (self._accept, self._accept, self._convert, self._touch, self._vcpu, self._platforms)
            if self._platform == "tdx"
            else (self._pvalidate, self._pvalidate, self._psc, self._touch, self._vmsa, self._msr)
        )
        return [self._random.choice(kinds)() for _ in range(count)]

    def _page(self) -> int:
        return FIRST + PAGE * self._random.randrange(8 * LARGE // PAGE)

    def _region(self) -> int:
        return FIRST + LARGE * self._random.randrange(8)

    def _accept(self) -> Op:
        large = self._random.randrange(2)
        return tdcall(6, rcx=self._region() | 1 if large else self._page())

    def _convert(self) -> Op:
        size = PAGE * self._random.choice((1, 3, 512, 700))
        return vmcall(MAP_GPA, r12=self._page() | self._random.choice((0, SHARED_BIT)), r13=size)

    def _touch(self) -> Op:
        side = self._random.choice((0, SHARED))
        return op(self._random.choice((LOAD, STORE)), rax=side + self._page(), rdx=4711)

    def _vcpu(self) -> Op:
        return tdcall(5, rcx=self._random.randrange(4))

    def _platforms(self) -> Op:
        """NOTIFY_ENABLES, a register of measurements, and the exception's information read."""
        return self._random.choice(
            (
                tdcall(8, rdx=0x9110000300000010, r8=self._random.randrange(2), r9=1),
                tdcall(2, rcx=FIRST - LARGE, rdx=self._random.randrange(4)),
                tdcall(3),
            )
        )

    def _pvalidate(self) -> Op:
        large, validate = self._random.randrange(2), self._random.randrange(4) > 0
        place = self._region() if large else self._page()
        return op(PVALIDATE, rax=place, rcx=large, rdx=int(validate))

    def _psc(self) -> Op:
        return psc(self._page(), self._random.choice((1, 2)))

    def _vmsa(self) -> Op:
        return op(RMPADJUST, rax=FIRST - LARGE + PAGE, rdx=1 | self._random.randrange(2) << 16)

    def _msr(self) -> Op:
        """A GHCB registered, and the MSR left as it is."""
        page = self._page()
        return self._random.choice(
            (
                op(WRMSR + VMGEXIT, rcx=GHCB_MSR, rax=page | 0x012),
                op(WRMSR, rcx=GHCB_MSR, rax=page),
            )
        )


def prepared(tiny: StartTiny, platform: str) -> TinyGuest:
    guest = tiny(platform, vcpus=2, properties=PROPERTIES[platform])
    if platform == "snp":
        guest.start_others()
        guest.run(op(PVALIDATE, rax=FIRST - LARGE + PAGE, rdx=1))
    else:
        guest.run(tdcall(6, rcx=FIRST - LARGE))
    return guest


def asks_for_hold(answer: Mapping[str, Any]) -> bool:
    return any((call["interface"], call["number"]) == ("msr", 6) for call in answer["calls"])


def vcpus(state: Path) -> list[bytes]:
    """What was saved of each vCPU's platform state."""
    data = state.read_bytes()
    found, at = [], 0
    while (at := data.find(VCPU[0], at)) >= 0:
        at += len(VCPU[0]) + 4  # its version
        found.append(data[at : at + VCPU[1]])
    return found


def seen(results: list[Result]) -> list[tuple[Any, ...]]:
    return [
        (result.vector, result.error, result.cr2, *result.registers.values()) for result in results
    ]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("platform", PLATFORMS)
def test_whatever_a_guest_has_done_is_the_same_when_it_is_restored(
    tiny: StartTiny, tmp_path: Path, platform: str, seed: int
) -> None:
    doings = Doings(platform, seed)
    guest = prepared(tiny, platform)
    for vcpu in (0, 1):
        guest.run(*doings.some(150), vcpu=vcpu)
    if platform == "snp":  # one vCPU waits to be woken
        guest.start([op(WRMSR + VMGEXIT + RDMSR, rcx=GHCB_MSR, rax=0x006)], vcpu=1)
        guest.wait(asks_for_hold)
    first, again = tmp_path / "first", tmp_path / "again"
    guest.save(first)
    before, pages = guest.going, guest.states()
    assert len({state for state, _ in pages.values()}) == 3
    assert len(set(pages.values())) >= 4

    restored = tiny(platform, vcpus=2, properties=PROPERTIES[platform], state=first)
    assert restored.states() == pages
    assert restored.going == before
    balanced(restored)
    restored.save(again)
    assert len(vcpus(first)) == 2
    assert any(map(any, vcpus(first)))
    assert vcpus(again) == vcpus(first)

    # Both go on alike.
    more = doings.some(150)
    after = []
    for each in (guest, restored):
        each.execute("cont")
        if platform == "snp":
            each.wake(1, vcpu=1)
        results = [each.run(*more, vcpu=vcpu) for vcpu in (0, 1)]
        after.append(([seen(result) for result in results], each.going, each.states()))
    assert after[0] == after[1]
    if platform == "tdx":  # registers of measurements
        reads = [tdcall(7, rdx=0x1330000300000040 + 8 * number) for number in range(4)]
        values = [[result.r8 for result in each.run(*reads)] for each in (guest, restored)]
        assert values[0] == values[1]
