# SPDX-License-Identifier: MIT
"""Whatever is killed, hung or broken: the right status and cause, in time, and nothing left."""

import json
import os
import random
import select
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import paramiko
import pytest

from harness.base.status import GuestFailure, HostError, PreconditionError
from harness.guest.guest import Guest
from harness.host.lease import lease_directory, sweep
from harness.record.console import Kind
from tests.support.robustness import (
    BootMachine,
    all_end,
    boot_machine,
    driver,
    harness_threads,
    power_off,
    processes_of,
    sockets,
)

__all__ = ["boot_machine"]

pytestmark = pytest.mark.guest

PROMPT_S = 5.0
"""Within this a cause must be named once it is there."""
KILLS = 20
SEED = 20210810


@pytest.fixture(autouse=True)
def nothing_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """After each test: no QEMU, no lease, no socket, no thread."""
    monkeypatch.setenv("CVM_HARNESS_LEASES", str(tmp_path / "own-leases"))
    before = sockets()
    yield
    assert processes_of(tmp_path) == []
    assert list(lease_directory().iterdir()) == []
    assert sockets() == before
    assert harness_threads() == set()


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    return tmp_path / "run"


class Clock:
    """Measures how long naming the cause takes."""

    def __init__(self) -> None:
        self.started = 0.0

    def start(self) -> None:
        self.started = time.monotonic()

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self.started


def test_qemu_killed_during_boot(boot_machine: BootMachine, run_dir: Path) -> None:
    guest = Guest(boot_machine.machine, run_dir, keys=boot_machine.keys)
    clock = Clock()

    def kill_at_first_console_byte() -> None:
        def heard() -> int | None:
            return guest._live.monitor.first_byte_ns or None if guest.live else None

        guest.race.poll("the first console byte", heard, 30)
        clock.start()
        os.kill(guest.pid, signal.SIGKILL)

    killer = threading.Thread(target=kill_at_first_console_byte)
    killer.start()
    with pytest.raises(HostError, match="QEMU was killed by SIGKILL") as info, guest:
        pytest.fail("the guest booted")
    killer.join()
    assert clock.elapsed_s < PROMPT_S
    assert "ready message" in info.value.cause
    assert f"run directory: {run_dir}" in info.value.details


def test_qemu_that_refuses_its_options(boot_machine: BootMachine, run_dir: Path) -> None:
    machine = boot_machine.with_args(("-object", "memory-backend-ram,id=x,size=nonsense"))
    with (
        pytest.raises(HostError, match=r"exit status 1: .*nonsense") as info,
        Guest(machine, run_dir, keys=boot_machine.keys),
    ):
        pytest.fail("the guest booted")
    assert "SSH" not in info.value.cause


def test_qemu_that_stops_the_guest_for_good(boot_machine: BootMachine, run_dir: Path) -> None:
    fault = {"event": "none", "iotype": "read"}
    disk = {"driver": "null-co", "size": 1 << 20}
    bad = {"driver": "blkdebug", "node-name": "bad", "image": disk, "inject-error": [fault]}
    machine = boot_machine.with_args(
        ("-blockdev", json.dumps(bad)),
        ("-device", "virtio-blk-pci,drive=bad,rerror=stop"),  # the kernel looks for partitions
    )
    with (
        pytest.raises(HostError, match=r"QEMU stopped the guest \(io-error\)") as info,
        Guest(machine, run_dir, keys=boot_machine.keys),
    ):
        pytest.fail("the guest booted")
    assert "disk" in info.value.hint


def test_qemu_killed_during_a_workload(boot_machine: BootMachine, run_dir: Path) -> None:
    clock = Clock()
    with Guest(boot_machine.machine, run_dir, keys=boot_machine.keys) as guest:

        def kill(_: bytes) -> None:
            clock.start()
            os.kill(guest.pid, signal.SIGKILL)

        with pytest.raises(HostError, match="QEMU was killed by SIGKILL"):
            guest.run("echo go; sleep 1000", deadline_s=100, on_stdout=kill)
    assert clock.elapsed_s < PROMPT_S


def test_a_panic_is_the_cause(boot_machine: BootMachine, run_dir: Path) -> None:
    clock = Clock()
    with Guest(boot_machine.machine, run_dir, keys=boot_machine.keys) as guest:
        clock.start()
        with pytest.raises(GuestFailure, match="Kernel panic - not syncing: sysrq") as info:
            guest.run("echo c > /proc/sysrq-trigger", deadline_s=100)
        assert clock.elapsed_s < PROMPT_S
        assert guest.splats[0].kind is Kind.PANIC
        assert guest.splats[0].context
    assert any("Kernel panic" in line for line in info.value.details)
    assert b"Kernel panic" in (run_dir / "console.log").read_bytes()


def test_a_guest_that_hangs_in_boot(boot_machine: BootMachine, run_dir: Path) -> None:
    machine = boot_machine.with_append("rdinit=/bin/cat")
    guest = Guest(machine, run_dir, keys=boot_machine.keys, boot_deadline_s=4)
    with pytest.raises(GuestFailure, match=r"the guest hung: .* ready message"), guest:
        pytest.fail("the guest booted")
    assert "kernel_start" in guest.boot.stages
    assert "ready" not in guest.boot.stages


def test_a_guest_that_hangs_later(boot_machine: BootMachine, run_dir: Path) -> None:
    clock = Clock()
    with Guest(boot_machine.machine, run_dir, keys=boot_machine.keys) as guest:
        clock.start()
        with pytest.raises(GuestFailure, match=r"the guest hung: .*its init is silent") as info:
            guest.run("echo go; sleep 1000", deadline_s=1, on_stdout=lambda _: stop(guest))
    assert clock.elapsed_s < 3 * PROMPT_S
    assert any("QEMU says the guest is paused" in line for line in info.value.details)


def stop(guest: Guest) -> None:
    """Stop all vCPUs: to everybody outside the guest hangs."""
    guest.qmp.execute("stop")
    guest.qmp.wait_event("STOP", deadline_s=5)


def test_what_a_living_guest_survives(boot_machine: BootMachine, run_dir: Path) -> None:
    """A slow command, a failing one, a stopped one: none of them is the guest's end."""
    with Guest(boot_machine.machine, run_dir, keys=boot_machine.keys) as guest:
        with pytest.raises(PreconditionError, match="the guest is alive otherwise"):
            guest.run("sleep 1000", deadline_s=0.5)
        with pytest.raises(PreconditionError, match="exit status 7") as info:
            guest.run("echo why >&2; exit 7")
        assert info.value.details == ("why",)
        with pytest.raises(HostError, match="QEMU refused no-such-command"):
            guest.qmp.execute("no-such-command")

        beats: list[bytes] = []
        many = [
            guest.start("while echo beat; do sleep 0.05; done", on_stdout=beats.append)
            for _ in range(3)
        ]
        guest.wait("nine beats", lambda: len(beats) >= 9 or None, deadline_s=20)
        for command in many:
            assert b"beat" in command.stop().stdout
        data = random.Random(SEED).randbytes(300_000)
        guest.put(data, "/tmp/it's here")
        assert guest.get("/tmp/it's here") == data
        with pytest.raises(PreconditionError, match="has 300000 bytes"):
            guest.get("/tmp/it's here", max_bytes=1000)
        assert not guest.splats
        power_off(guest)


def test_a_guest_that_powers_itself_off(boot_machine: BootMachine, run_dir: Path) -> None:
    with (
        Guest(boot_machine.machine, run_dir, keys=boot_machine.keys) as guest,
        pytest.raises(GuestFailure, match="the guest powered itself off"),
    ):
        guest.run("poweroff -f; sleep 1000", deadline_s=100)


def test_whoever_asks_qemu_while_it_dies_hears_that_it_died(
    boot_machine: BootMachine, run_dir: Path
) -> None:
    """Whenever QEMU ends: while it answers, or when nobody listens to it any more."""
    heard: list[Exception] = []

    def ask(guest: Guest) -> None:
        try:
            while True:
                guest.qmp.execute("query-status")
        except Exception as error:  # the test is about which
            heard.append(error)

    with Guest(boot_machine.machine, run_dir, keys=boot_machine.keys) as guest:
        askers = [threading.Thread(target=ask, args=(guest,)) for _ in range(4)]
        for asker in askers:
            asker.start()
        os.kill(guest.pid, signal.SIGKILL)
        for asker in askers:
            asker.join()
        guest._live.monitor._thread.join()
        ask(guest)
    assert ["QEMU was killed by SIGKILL" in str(e) for e in heard] == [True] * 5, heard
    assert all(isinstance(error, HostError) for error in heard)


def test_sshd_killed_while_the_guest_is_healthy(boot_machine: BootMachine, run_dir: Path) -> None:
    clock = Clock()
    with Guest(boot_machine.machine, run_dir, keys=boot_machine.keys) as guest:
        clock.start()
        with pytest.raises(HostError, match=r"the SSH connection broke .*is healthy"):
            guest.run("kill -9 $(pidof dropbear); sleep 1000", deadline_s=100)
    assert clock.elapsed_s < PROMPT_S


def test_sshd_taken_by_the_oom_killer(boot_machine: BootMachine, run_dir: Path) -> None:
    """What broke the connection is on the console: that is the cause, and the guest's fault."""
    with (
        Guest(boot_machine.machine, run_dir, keys=boot_machine.keys) as guest,
        pytest.raises(GuestFailure, match=r"oom: .*the SSH connection broke"),
    ):
        guest.run(
            "for pid in $(pidof dropbear); do echo 1000 > /proc/$pid/oom_score_adj; done; "
            "echo f > /proc/sysrq-trigger; sleep 1000",
            deadline_s=100,
        )


def test_a_command_that_ends_before_its_signal_is_sent(
    boot_machine: BootMachine, run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`stop` ends stdin, then signals; dropbear ends the connection at a signal to no channel."""
    end_stdin = paramiko.Channel.shutdown_write

    with (
        monkeypatch.context() as patch,
        Guest(boot_machine.machine, run_dir, keys=boot_machine.keys) as guest,
    ):

        def end_stdin_and_see_it_end(channel: paramiko.Channel) -> None:
            patch.undo()
            end_stdin(channel)
            with channel.out_buffer_cv:
                assert channel.out_buffer_cv.wait_for(lambda: channel.closed, PROMPT_S)
            guest.run(["true"])  # after which the server has seen our CLOSE

        held = guest.start(["cat"])
        patch.setattr(paramiko.Channel, "shutdown_write", end_stdin_and_see_it_end)
        assert held.stop().exit_status == 0
        assert guest.run(["echo", "alive"]).text == "alive\n"


def test_fifty_mebibytes_on_each_stream(boot_machine: BootMachine, run_dir: Path) -> None:
    size = 50 << 20
    heard = []
    with Guest(boot_machine.machine, run_dir, keys=boot_machine.keys) as guest:
        result = guest.run(
            f"head -c {size} /dev/zero >&2 & head -c {size} /dev/zero; wait",
            deadline_s=120,
            max_output=1 << 20,
            on_stdout=lambda data: heard.append(len(data)),
        )
    assert sum(heard) == size
    assert len(result.stdout) + result.stdout_dropped == size
    assert len(result.stderr) + result.stderr_dropped == size
    assert len(result.stdout) == 1 << 20


def await_line(child: subprocess.Popen[bytes], word: bytes, seconds: float) -> None:
    """Read the driver's stdout until a line that is `word`."""
    assert child.stdout
    end = time.monotonic() + seconds
    for _ in range(100):
        if not select.select([child.stdout], [], [], max(0.0, end - time.monotonic()))[0]:
            break
        if child.stdout.readline().strip() == word:
            return
    pytest.fail(f"the driver did not print {word!r} within {seconds} s")


def test_ctrl_c_leaves_nothing(boot_machine: BootMachine, run_dir: Path, tmp_path: Path) -> None:
    scratch = tmp_path / "driver"
    with driver(boot_machine, run_dir, scratch) as child:
        await_line(child, b"workload", 60)
        qemu = [pid for pid in processes_of(scratch) if pid != child.pid]
        assert qemu
        os.killpg(child.pid, signal.SIGINT)  # as a terminal does
        assert child.wait(PROMPT_S) == 130
    assert all_end(qemu, 0)
    assert list((scratch / "leases").iterdir()) == []
    assert list((scratch / "tmp").iterdir()) == []


def test_harness_killed_at_random_moments(
    boot_machine: BootMachine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGKILL cannot be caught: the kernel takes QEMU down, the next run sweeps the rest."""
    scratch = tmp_path / "driver"
    monkeypatch.setenv("CVM_HARNESS_LEASES", str(scratch / "leases"))
    rng = random.Random(SEED)
    caught_qemu = 0
    for number in range(KILLS):
        run_dir = tmp_path / f"run-{number}"
        with driver(boot_machine, run_dir, scratch) as child:
            await_line(child, b"spawn", 30)
            delay_s = rng.uniform(0.0, 4.0)
            assert child.stdout
            # Nothing to wait for but the moment; a driver that ends early is a failure.
            with pytest.raises(subprocess.TimeoutExpired):
                child.wait(delay_s)
            qemu = [pid for pid in processes_of(scratch) if pid != child.pid]
            child.kill()
            child.wait()
        caught_qemu += bool(qemu)
        assert all_end(qemu, PROMPT_S), f"QEMU outlived a harness killed after {delay_s:.3f} s"
        assert processes_of(scratch) == []
    sweep()
    assert list((scratch / "leases").iterdir()) == []
    assert list((scratch / "tmp").iterdir()) == []
    assert caught_qemu > KILLS // 2
