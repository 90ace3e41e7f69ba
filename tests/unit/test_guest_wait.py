# SPDX-License-Identifier: MIT
"""The wait primitive: who wins the race, and what the losers' errors say."""

import threading
import time

import msgspec
import pytest

from harness.base.status import (
    GuestFailure,
    GuestTerminated,
    HarnessError,
    HostError,
    IllegalAccess,
    PreconditionError,
)
from harness.guest import verdict
from harness.guest.monitor import Exit
from harness.guest.wait import Expired, Race, WaitEnd
from harness.record.console import Kind, Splat
from harness.record.platform_state import parse_fatal, parse_violation


def test_a_value_that_is_there_wins_over_a_verdict() -> None:
    race = Race(lambda: WaitEnd(HostError, "QEMU is gone"))
    assert race.wait("a value", lambda: 5, 1) == 5


def test_a_notification_wakes_a_waiter() -> None:
    race = Race(lambda: None)
    found: list[int] = []

    def change() -> None:
        found.append(1)
        race.notify()

    threading.Timer(0.05, change).start()
    start = time.monotonic()
    assert race.wait("a change", lambda: found or None, 10) == [1]
    assert time.monotonic() - start < 5


def test_no_notification_is_lost_between_probe_and_sleep() -> None:
    race = Race(lambda: None)
    asked = []

    def probe() -> int | None:
        asked.append(1)
        race.notify()  # comes after this probe looked
        return 1 if len(asked) > 1 else None

    start = time.monotonic()
    assert race.wait("the second look", probe, 10) == 1
    assert time.monotonic() - start < 1


def test_a_verdict_names_what_was_waited_for_and_shows_the_evidence() -> None:
    race = Race(
        lambda: WaitEnd(GuestFailure, "the guest panicked", hint="look", details=("stack",)),
        evidence=lambda: ("run directory: /r",),
    )
    with pytest.raises(GuestFailure, match=r"panicked \(while waiting for tea, 0\.0 s\)") as info:
        race.wait("tea", lambda: None, 10)
    assert info.value.hint == "look"
    assert info.value.details == ("stack", "run directory: /r")


def test_the_deadline_is_scaled_and_judged() -> None:
    seen: list[HarnessError] = []

    def judge(error: HarnessError) -> HarnessError:
        seen.append(error)
        return PreconditionError(error.cause)

    race = Race(lambda: None, judge=judge, time_scale=3.0)
    start = time.monotonic()
    with pytest.raises(PreconditionError, match="for tea"):
        race.wait("tea", lambda: None, 0.05)
    assert 0.15 <= time.monotonic() - start < 2
    assert isinstance(seen[0], Expired)
    assert race.poll("tea", lambda: None, 0.01) is None
    assert len(seen) == 1


def test_call_returns_raises_and_gives_up() -> None:
    dead: list[WaitEnd] = []
    race = Race(lambda: dead[0] if dead else None)
    assert race.call("a sum", lambda: 1 + 1, 5, lambda: None) == 2
    with pytest.raises(ZeroDivisionError):
        race.call("a ratio", lambda: 1 // 0, 5, lambda: None)

    given_up = threading.Event()

    def die() -> None:
        dead.append(WaitEnd(HostError, "QEMU is gone"))
        race.notify()

    threading.Timer(0.05, die).start()
    with pytest.raises(HostError, match="QEMU is gone"):
        race.call("for ever", given_up.wait, 60, given_up.set)
    assert given_up.is_set()


def splat(line: str) -> Splat:
    return Splat(Kind.PANIC, line, 0)


@pytest.mark.parametrize(
    ("status", "reason", "said", "asked", "error", "cause"),
    [
        (0, "guest-shutdown", [], False, GuestFailure, "powered itself off"),
        (0, "guest-reset", [], False, GuestFailure, "reset itself"),
        (0, "guest-panic", [], False, GuestFailure, "panicked"),
        (0, "host-signal", [], False, HostError, "signal from outside"),
        (0, "host-qmp-quit", [], True, HostError, "stopped by the harness"),
        (-9, "", [], False, HostError, "killed by SIGKILL"),
        (-77, "", [], False, HostError, "killed by signal 77"),
        (1, "", ["qemu: -m: no such size"], False, HostError, "status 1: qemu: -m: no such size"),
        (127, "", [], False, HostError, "exit status 127"),
    ],
)
def test_every_end_of_qemu_has_its_verdict(
    status: int, reason: str, said: list[str], asked: bool, error: type, cause: str
) -> None:
    found = verdict.on_exit(Exit(status, reason), said, asked=asked)
    assert found.error is error
    assert cause in found.cause


KVM_GAVE_UP = ["KVM internal error. Suberror: 1", "emulation failure", *["RAX=0"] * 40]


@pytest.mark.parametrize(
    ("state", "said", "error", "cause"),
    [
        ("internal-error", KVM_GAVE_UP, HostError, "KVM internal error. Suberror: 1"),
        ("internal-error", ["error: kvm run failed Bad address"], GuestFailure, "Bad address"),
        ("io-error", [], HostError, "io-error"),
    ],
)
def test_a_guest_that_qemu_stops_has_its_verdict(
    state: str, said: list[str], error: type, cause: str
) -> None:
    found = verdict.on_halt(state, said)
    assert found.error is error
    assert cause in found.cause


def test_a_refusal_that_is_known_has_a_hint() -> None:
    said = ["qemu-system-x86_64: vm-type TDX not supported by KVM"]
    assert "BIOS" in verdict.on_exit(Exit(1, ""), said, asked=False).hint


def test_a_panic_is_named() -> None:
    found = verdict.on_panic(splat("Kernel panic - not syncing: x"))
    assert found.error is GuestFailure
    assert "not syncing: x" in found.cause
    assert "without a word" in verdict.on_panic(None).cause


def test_an_illegal_access_says_where_and_by_what() -> None:
    violation = parse_violation(
        {
            "kind": "unaccepted",
            "access": "write",
            "gpa": 0x140000000,
            "gva": 0xFFFF888140000000,
            "state": "pending",
            "action": "stop",
            "detail": "",
            "vcpu": 1,
            "rip": 0xFFFFFFFF81234567,
            "cpl": 0,
            "rsp": 0xFFFFC90000000000,
            "code": "f3ab",
        }
    )
    found = verdict.on_violation(violation)
    assert found.error is IllegalAccess
    assert "access to unaccepted memory (write) at GPA 0x140000000" in found.cause
    assert "by vCPU 1 at RIP 0xffffffff81234567" in found.cause
    assert "RSP 0xffffc90000000000" in found.details[0]
    by_device = msgspec.structs.replace(violation, kind="dma", rip=None, vcpu=None, gva=None)
    assert "by a device" in verdict.on_violation(by_device).cause


def test_a_guest_that_gives_up_is_a_failure_with_its_own_words() -> None:
    fatal = parse_fatal({"code": 256, "message": "no luck", "vcpu": 0, "rip": 1, "rsp": 2})
    found = verdict.on_termination(fatal, None)
    assert found.error is GuestTerminated
    assert found.error.signal == "terminated"
    assert "0x100: 'no luck'" in found.cause
