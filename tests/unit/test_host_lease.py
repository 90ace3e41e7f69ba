# SPDX-License-Identifier: MIT
"""Leases: what a dead harness left is found and removed, what a living one has is not touched."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from harness.base.reader import parse_json
from harness.base.status import HostError, UsageError
from harness.host.lease import Lease, LeaseRecord, ProcessId, process_id, sweep
from harness.record.rundir import plain


@pytest.fixture
def leases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "leases"
    monkeypatch.setenv("CVM_HARNESS_LEASES", str(path))
    return path


@pytest.fixture
def dead() -> ProcessId:
    """A process id that no process has any more."""
    child = subprocess.Popen([sys.executable, "-c", ""], stdin=subprocess.DEVNULL)
    found = process_id(child.pid) or ProcessId(child.pid, 0)
    child.wait()
    return found


def abandon(held: Lease, dead: ProcessId, **changes: object) -> None:
    held.record = replace(held.record, harness=dead, **changes)
    held._write()


def test_a_held_lease_is_left_alone_and_released_whole(leases: Path, tmp_path: Path) -> None:
    held = Lease(tmp_path)
    assert sweep() == []
    assert len(list(leases.iterdir())) == 1
    held.release()
    assert list(leases.iterdir()) == []


def test_what_a_dead_harness_left_is_swept(leases: Path, tmp_path: Path, dead: ProcessId) -> None:
    with subprocess.Popen(["sleep", "100"]) as orphan:
        held = Lease(tmp_path)
        held.spawned(orphan.pid)
        abandon(held, dead)
        done = sweep()
        assert orphan.wait(5) == -9
    assert len(done) == 1
    assert list(leases.iterdir()) == []


def test_a_reused_pid_is_not_killed(leases: Path, tmp_path: Path, dead: ProcessId) -> None:
    with subprocess.Popen(["sleep", "100"]) as innocent:
        held = Lease(tmp_path)
        found = process_id(innocent.pid)
        assert found
        abandon(held, dead, qemu=replace(found, start_ticks=found.start_ticks - 1))
        assert sweep() == []
        assert innocent.poll() is None
        innocent.kill()


def test_a_qemu_not_yet_recorded_is_found_by_its_name(
    leases: Path, tmp_path: Path, dead: ProcessId
) -> None:
    held = Lease(tmp_path)
    script = "import sys; print('up', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", script, "-name", held.guest_id],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as orphan:
        assert orphan.stdout
        # Until execve(2) is done with it /proc shows no command line, and Popen returns before.
        assert orphan.stdout.readline() == b"up\n"
        abandon(held, dead)
        assert len(sweep()) == 1
        assert orphan.wait(5) == -9


def test_pids_of_another_boot_mean_nothing(leases: Path, tmp_path: Path, dead: ProcessId) -> None:
    with subprocess.Popen(["sleep", "100"]) as innocent:
        held = Lease(tmp_path)
        held.spawned(innocent.pid)
        held.record = replace(held.record, boot_id="00000000-0000-0000-0000-000000000000")
        held._write()
        assert sweep() == []
        assert innocent.poll() is None
        innocent.kill()
    assert list(leases.iterdir()) == []


def test_an_unreadable_lease_is_removed(leases: Path) -> None:
    leases.mkdir(mode=0o700)
    (leases / "cvm-0.json").write_bytes(b"\x00{")
    assert len(sweep()) == 1
    assert list(leases.iterdir()) == []


def test_a_directory_that_others_can_write_is_refused(leases: Path) -> None:
    leases.mkdir()
    leases.chmod(0o777)
    with pytest.raises(HostError, match="only this user"):
        sweep()


def test_records_survive_the_file() -> None:
    record = LeaseRecord("cvm-1", "b", ProcessId(5, 6), ProcessId(7, 8), "/run")
    assert parse_json(json.dumps(plain(record)), LeaseRecord, "the lease") == record


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["pid", "start_ticks"]), inner, max_size=3)
    ),
    max_leaves=5,
)
FIELDS = ["guest_id", "boot_id", "harness", "qemu", "run_dir"]


@given(st.dictionaries(st.sampled_from(FIELDS), json_values))
def test_hostile_records_are_refused_or_sound(data: dict[str, object]) -> None:
    try:
        record = parse_json(json.dumps(data), LeaseRecord, "the lease")
    except UsageError:
        return
    assert record.harness.pid > 1


@given(st.binary(max_size=100))
def test_any_bytes_are_a_lease_or_refused(data: bytes) -> None:
    with pytest.raises(UsageError):
        parse_json(data, LeaseRecord, "the lease")


def test_own_process_has_a_start_time() -> None:
    own = process_id(os.getpid())
    assert own
    assert own.start_ticks > 0
