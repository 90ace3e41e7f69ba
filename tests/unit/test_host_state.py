# SPDX-License-Identifier: MIT
"""The host's log and statistics over a run; on hardware a report of the host's kernel is FAIL."""

import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from harness.analysis.invariants import host_check
from harness.base.spec import Accel, TargetName
from harness.base.status import Status
from harness.host.state import (
    HostWatch,
    KernelLog,
    host_state,
    kernel_log,
    message_of,
    read_stats,
)
from harness.host.view import LiveHost, RecordedHost
from harness.record.run import run_record
from harness.record.rundir import plain
from harness.run.session import watch_for
from harness.targets.choose import guest_spec
from harness.targets.registry import target_for

WARNING = "WARNING: CPU: 3 PID: 4242 at arch/x86/kvm/svm/sev.c:4870 sev_handle_rmp_fault+0x1/0x2"
OOM = "Out of memory: Killed process 1 (qemu)"


class Log(KernelLog):
    """A kernel log with lines that come in during the run."""

    def __init__(self, lines: Sequence[str], why_not: str = "") -> None:
        self._lines = list(lines)
        self.why_not = why_not

    def lines(self) -> list[str]:
        new, self._lines = self._lines, []
        return new

    def close(self) -> None:
        pass


def judged(log: Log) -> Status | None:
    with HostWatch(log, Path("/nonexistent")) as watch:
        record = run_record({"host_watch": plain(watch.record())})
    check = host_check(record.host_watch)
    return check.status if check else None


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        ([], Status.PASS),
        (["eth0: link up", "kvm: SMP vm created"], Status.PASS),
        ([WARNING], Status.FAIL),
        ([OOM], Status.MISS),
        ([OOM, WARNING], Status.FAIL),
    ],
)
def test_reports_of_the_hosts_kernel_decide(lines: list[str], status: Status) -> None:
    assert judged(Log(lines)) is status


def test_a_log_that_cannot_be_read_is_a_skip_and_never_a_pass() -> None:
    assert judged(Log([], "/dev/kmsg: EPERM")) is Status.SKIP


@pytest.mark.parametrize(
    ("target", "accel", "watched"),
    [
        ("emulated", Accel.KVM, False),
        ("emulated", Accel.TCG, False),
        ("snp", Accel.TCG, False),
        ("snp", Accel.KVM, True),
        ("tdx", Accel.KVM, True),
    ],
)
def test_only_a_guest_on_hardware_is_judged_by_its_host(
    target: str, accel: Accel, watched: bool
) -> None:
    watch = watch_for(target_for(TargetName(target)), guest_spec(target=target, accel=accel))
    assert isinstance(watch, HostWatch if watched else type(None))
    assert host_check(None) is None


def test_a_record_keeps_what_earlier_records_saw() -> None:
    log = Log([WARNING])
    with HostWatch(log, Path("/nonexistent")) as watch:
        assert len(watch.record().splats) == 1
        assert len(watch.record().splats) == 1


def test_statistics_are_changes_over_the_run(tmp_path: Path) -> None:
    (tmp_path / "exits").write_text("10\n")
    (tmp_path / "halt_exits").write_text("3\n")
    (tmp_path / "text").write_text("not a number\n")
    (tmp_path / "4242-7").mkdir()
    assert read_stats(tmp_path) == {"exits": 10, "halt_exits": 3}
    with HostWatch(Log([]), tmp_path) as watch:
        (tmp_path / "exits").write_text("25\n")
        (tmp_path / "new").write_text("1\n")
        assert watch.record().kvm_stats == {"exits": 15, "new": 1}


def test_kmsg_records_give_their_first_line() -> None:
    assert message_of(b"6,339,5140900,-;NET: Registered\n SUBSYSTEM=net\n") == "NET: Registered"
    assert message_of(b"4,1,2,-;\xff\n") == "\\xff"


@pytest.mark.skipif(not os.access("/dev/kmsg", os.R_OK), reason="/dev/kmsg cannot be read here")
def test_the_real_log_is_read_from_now_on() -> None:
    assert kernel_log()
    log = KernelLog()
    assert not log.why_not
    assert log.lines() == []
    log.close()
    assert log.lines() == []


def test_the_state_of_this_host_and_of_a_recorded_one() -> None:
    assert host_state(LiveHost())["kernel"] == os.uname().release
    hosts = Path(__file__).parent / "hosts"
    facts = host_state(RecordedHost.load(hosts / "genoa-snp.json"))
    assert facts["snp_firmware"] == "1.55 build 21"
    assert "snp_firmware" not in host_state(
        RecordedHost.load(hosts / "genoa-kvm-amd-without-sev-snp.json")
    )
