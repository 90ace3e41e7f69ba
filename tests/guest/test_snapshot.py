# SPDX-License-Identifier: MIT
"""Restored guests are what booted ones are: proven, conserving, each with time and secrets of its
own; and a snapshot that cannot be used is made anew."""

import concurrent.futures
import contextlib
import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from harness.base.spec import GuestSpec, SnapshotMode
from harness.base.status import HostError, Status
from harness.base.store import Store, digest_file
from harness.base.units import MIB
from harness.guest.snapshot.save import save_template
from harness.guest.snapshot.snapshot import MANIFEST, STATE, parse_manifest, write_manifest
from harness.guest.snapshot.store import KIND
from harness.kernel.kernel import Kernel
from harness.run.run import Run
from harness.run.session import Session
from harness.targets.choose import guest_spec
from harness.workloads.touch import Touch

pytestmark = pytest.mark.guest


@pytest.fixture
def session(cvm_session: Session, tmp_path: Path) -> Session:
    """Snapshots on, in a cache of its own (kernels and images stay shared)."""
    store = Store(tmp_path / "cache")
    for kind in ("kernel", "kernel-config", "image", "accel-probe"):
        shared = cvm_session.store.root / "entries" / kind
        if shared.is_dir():
            (store.root / "entries").mkdir(parents=True, exist_ok=True)
            (store.root / "entries" / kind).symlink_to(shared)
    return Session(store=store, runs=cvm_session.runs, snapshot=SnapshotMode.AUTO)


def snapshots_of(session: Session) -> list[Path]:
    return sorted((session.store.root / "entries" / KIND).glob("*"))


def identity(run: Run) -> dict[str, object]:
    script = "head -c 16 /dev/urandom | od -An -tx1; date +%s; cat /proc/buddyinfo"
    random, now, *buddy = run.guest.run(script).text.splitlines()
    assert run.before is not None
    return {
        "random": random,
        "clock": int(now),
        "buddy": buddy,
        "unaccepted": run.before.unaccepted_pages,
        "port": run.guest.ssh_port,
        "boot_id": run.guest.boot.ready.boot_id,
    }


def test_restored_guests_start_alike_and_share_no_secret(
    session: Session, cvm_kernel: Kernel, cvm_spec: GuestSpec
) -> None:
    prepared = session.prepare(cvm_spec, cvm_kernel)
    guests = []
    for _ in range(2):
        with session.boot(prepared) as run:
            assert run.directory.record["snapshot"]["used"], run.directory.record["snapshot"]
            assert run.guest.boot.restored
            guests.append(identity(run))
            assert abs(int(str(guests[-1]["clock"])) - time.time()) < 3
            run.load(Touch(bytes=600 * MIB))
            outcome = run.conclude()
        # Boot and template's acceptance are in the account, for they are in the trace buffer.
        assert outcome.status is Status.PASS, outcome.cause
        assert outcome.before.unaccepted_pages > outcome.after.unaccepted_pages
    first, second = guests
    assert len(snapshots_of(session)) == 1
    assert first["unaccepted"] == second["unaccepted"]
    assert first["boot_id"] == second["boot_id"]
    assert first["random"] != second["random"]


def test_guests_restored_at_once_do_not_see_each_other(
    session: Session, cvm_kernel: Kernel, cvm_spec: GuestSpec
) -> None:
    prepared = session.prepare(cvm_spec, cvm_kernel)

    def one(number: int) -> tuple[str, str]:
        with session.boot(prepared) as run:
            assert run.guest.boot.restored
            run.guest.put(f"guest {number}".encode(), "/tmp/mark")
            return run.guest.run(["cat", "/tmp/mark"]).text, identity(run)["random"]  # type: ignore[return-value]

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        results = list(pool.map(one, range(4)))
    assert [mark for mark, _ in results] == [f"guest {n}" for n in range(4)]
    assert len({random for _, random in results}) == 4
    (snapshot,) = snapshots_of(session)  # whoever came first made it, once
    manifest = parse_manifest((snapshot / MANIFEST).read_bytes())
    # Guests have written to their memory since: to their own copies.
    assert (snapshot / "ram0.bin").stat().st_mtime_ns == manifest.ram["ram0"].mtime_ns


def test_a_state_that_qemu_refuses_is_thrown_away_and_made_anew(
    session: Session, cvm_kernel: Kernel, cvm_spec: GuestSpec
) -> None:
    prepared = session.prepare(cvm_spec, cvm_kernel)
    with session.boot(prepared):
        pass
    (snapshot,) = snapshots_of(session)
    state = bytearray((snapshot / STATE).read_bytes())
    state[len(state) // 2 :] = bytes(len(state) - len(state) // 2)
    (snapshot / STATE).write_bytes(state)
    manifest = parse_manifest((snapshot / MANIFEST).read_bytes())
    forged = msgspec.structs.replace(manifest, state_sha256=digest_file(snapshot / STATE))
    write_manifest(snapshot, forged)

    with session.boot(prepared) as run:
        assert run.guest.boot.restored
        assert run.conclude().status is Status.PASS
    assert (run.directory.path / "failed-snapshot" / "qemu.log").exists()
    (again,) = snapshots_of(session)
    assert parse_manifest((again / MANIFEST).read_bytes()).state_sha256 != forged.state_sha256


def test_every_shape_of_guest_is_restored(
    session: Session, cvm_kernel: Kernel, cvm_spec: GuestSpec
) -> None:
    shapes = [
        guest_spec(memory="2G", numa_nodes=2),
        guest_spec(memory="2G", route="efi"),
        dataclasses.replace(guest_spec(memory="2G"), maxmem=4 << 30, slots=2),
    ]
    for spec in shapes:
        prepared = session.prepare(spec, cvm_kernel)
        with session.boot(prepared) as run:
            assert run.guest.boot.restored, run.directory.record["snapshot"]
            run.load(Touch(bytes=256 * MIB))
            outcome = run.conclude()
        assert outcome.status is Status.PASS, (spec, outcome.cause)
    assert len(snapshots_of(session)) == len(shapes)


def test_a_template_that_fails_is_the_run_that_fails(
    session: Session, cvm_kernel: Kernel, cvm_spec: GuestSpec, tmp_path: Path
) -> None:
    session = Session(store=session.store, runs=tmp_path / "runs", snapshot=SnapshotMode.AUTO)
    spec = dataclasses.replace(cvm_spec, extra_cmdline=("rdinit=/bin/false",))
    prepared = session.prepare(spec, cvm_kernel)
    with pytest.raises(Exception, match="panicked"), session.boot(prepared):
        pytest.fail("a guest without an init was handed out")
    (directory,) = session.runs.glob("*")
    assert b"Kernel panic" in (directory / "console.log").read_bytes()
    assert json.loads((directory / "run.json").read_text())["status"] == "FAIL"
    assert snapshots_of(session) == []


def test_with_snapshots_off_each_guest_is_booted(
    cvm_session: Session, cvm_kernel: Kernel, cvm_spec: GuestSpec
) -> None:
    session = Session(store=cvm_session.store, runs=cvm_session.runs, snapshot=SnapshotMode.OFF)
    with contextlib.ExitStack() as stack:
        run = stack.enter_context(session.boot(session.prepare(cvm_spec, cvm_kernel)))
        assert not run.guest.boot.restored
        assert run.guest.boot.since_spawn_ns("init") > 0
        assert run.directory.record["snapshot"] == {
            "used": False,
            "reason": "snapshots are off",
        }


def test_where_memory_cannot_be_mapped_from_a_file_it_is_streamed(
    session: Session, cvm_kernel: Kernel, cvm_spec: GuestSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    def without_files(*given: Any, in_files: bool, **more: Any) -> None:
        if in_files:
            raise HostError("unable to map backing store")
        save_template(*given, in_files=in_files, **more)

    monkeypatch.setattr("harness.run.restorer.save_template", without_files)
    with session.boot(session.prepare(cvm_spec, cvm_kernel)) as run:
        assert run.guest.boot.restored
        assert run.directory.record["snapshot"]["memory"] == "stream"
        assert run.directory.record["snapshot"]["state_bytes"] > 16 * MIB
        assert run.conclude().status is Status.PASS
    (snapshot,) = snapshots_of(session)
    assert not list(snapshot.glob("ram*.bin"))
