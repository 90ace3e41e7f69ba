# SPDX-License-Identifier: MIT
"""Snapshots on disk: memory goes to files, what is not as it was left is refused and made anew."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.base.store import Store
from harness.guest.machine import Machine
from harness.guest.snapshot import machine as snapshot_machine
from harness.guest.snapshot.save import copy_sparse
from harness.guest.snapshot.snapshot import (
    CONSOLE,
    KEYS,
    MANIFEST,
    STATE,
    BadSnapshot,
    Manifest,
    OpenSnapshot,
    describe_ram,
    parse_manifest,
    write_manifest,
)
from harness.guest.snapshot.store import KIND, SnapshotStore
from harness.host.lease import host_boot_id
from harness.image.keys import Keys

MACHINE = Machine(
    Path("/usr/bin/qemu"),
    (
        ("-m", "4096M"),
        ("-object", "memory-backend-memfd,id=ram0,size=2048M,reserve=off"),
        ("-object", "memory-backend-memfd,id=ram1,size=2048M,reserve=off"),
        ("-object", "rng-builtin,id=rng7"),
        ("-append", "memory-backend-memfd,id=ram0,size=2048M"),
    ),
)
DIGEST = "d" * 64


def save(directory: Path) -> None:
    """What save_template leaves, without a guest."""
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "ram0.bin").open("wb") as file:
        file.truncate(64 << 20)
        file.write(b"memory")
    state = os.urandom(1000)
    (directory / STATE).write_bytes(state)
    (directory / CONSOLE).write_bytes(b"Linux version 6.12\n")
    keys = Keys.generate(directory / KEYS)
    write_manifest(
        directory,
        Manifest(
            digest=DIGEST,
            host_boot_id=host_boot_id(),
            ram={"ram0": describe_ram(directory, "ram0")},
            state_bytes=len(state),
            state_sha256=hashlib.sha256(state).hexdigest(),
            save_ns=20_000_000,
            stages_ns={"spawn": 0, "ready": 2_000_000_000},
            init={"nr_unaccepted_pages": 1024},
            ready={"boot_id": "0" * 8},
            host_public_key=keys.host_public_key,
            authorized_key=keys.authorized_key,
        ),
    )


def test_template_and_guest_differ_only_in_whether_memory_is_shared() -> None:
    ram = {"ram0": 11, "ram1": 12}
    template = snapshot_machine.template(MACHINE, ram, 13)
    guest = snapshot_machine.restored(MACHINE, ram, 13)

    shared = [" ".join(option).replace("share=on", "share=off") for option in template.args]
    assert [*shared, "-incoming defer"] == [" ".join(option) for option in guest.args]
    assert (
        "-object",
        "memory-backend-file,id=ram1,size=2048M,mem-path=/proc/self/fd/12,share=off,reserve=off",
    ) in guest.args
    assert template.inherited == guest.inherited == (11, 12, 13)
    # Not every word that looks like a backend is one.
    assert MACHINE.args[-1] in guest.args
    assert snapshot_machine.memory_sizes(MACHINE) == {"ram0": 2 << 30, "ram1": 2 << 30}


def test_memory_is_copied_with_its_holes(tmp_path: Path) -> None:
    size = 64 << 20
    ends = [(0, b"first"), (3 << 20, os.urandom(70_000)), (size - 4, b"last")]
    with (tmp_path / "a").open("w+b") as source, (tmp_path / "b").open("w+b") as target:
        for file in (source, target):
            file.truncate(size)
        for at, data in ends:
            os.pwrite(source.fileno(), data, at)
        copy_sparse(source.fileno(), target.fileno())
        for at, data in ends:
            assert os.pread(target.fileno(), len(data), at) == data
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert (tmp_path / "b").stat().st_blocks * 512 < 1 << 20


def test_a_snapshot_of_firmware_has_no_keys(tmp_path: Path) -> None:
    save(tmp_path)
    change(host_public_key="", authorized_key="", init={}, ready={})(tmp_path)
    shutil.rmtree(tmp_path / KEYS)
    with OpenSnapshot(tmp_path, DIGEST) as snapshot:
        assert os.pread(snapshot.ram["ram0"], 6, 0) == b"memory"


def test_without_files_the_memory_stays_what_it_was() -> None:
    assert snapshot_machine.template(MACHINE, {}, 13).args == MACHINE.args


def test_a_snapshot_opens_with_all_that_a_guest_needs(tmp_path: Path) -> None:
    save(tmp_path)
    with OpenSnapshot(tmp_path, DIGEST) as snapshot:
        assert os.pread(snapshot.ram["ram0"], 6, 0) == b"memory"
        assert len(os.read(snapshot.state, 2000)) == 1000
        assert snapshot.console == b"Linux version 6.12\n"
        keys = snapshot.lend_keys(tmp_path / "run")
    assert keys.private_key.read_bytes() == (tmp_path / KEYS / "id_rsa").read_bytes()
    assert keys.private_key.stat().st_mode & 0o777 == 0o600


def test_a_guest_keeps_its_snapshot_when_the_cache_is_swept(tmp_path: Path) -> None:
    save(tmp_path / "s")
    with OpenSnapshot(tmp_path / "s", DIGEST) as snapshot:
        for path in (tmp_path / "s").glob("*.bin"):
            path.unlink()
        with Path(f"/proc/self/fd/{snapshot.ram['ram0']}").open("rb") as file:
            assert file.read(6) == b"memory"


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[10] ^= 1
    path.write_bytes(data)


def change(**fields: Any) -> Callable[[Path], None]:
    def edit(directory: Path) -> None:
        manifest = parse_manifest((directory / MANIFEST).read_bytes())
        write_manifest(directory, msgspec.structs.replace(manifest, **fields))

    return edit


def replace_ram(directory: Path) -> None:
    content = (directory / "ram0.bin").read_bytes()
    (directory / "ram0.bin").unlink()
    (directory / "ram0.bin").write_bytes(content)


def write_to_ram(directory: Path) -> None:
    with (directory / "ram0.bin").open("r+b") as file:
        file.write(b"M")


def link_ram(directory: Path) -> None:
    (directory / "ram0.bin").rename(directory / "elsewhere")
    (directory / "ram0.bin").symlink_to(directory / "elsewhere")


WRONGS: dict[str, tuple[Callable[[Path], None], str]] = {
    "state changed": (lambda d: flip(d / STATE), "device state has been changed"),
    "state cut": (lambda d: os.truncate(d / STATE, 999), "999 bytes, not 1000"),
    "state missing": (lambda d: (d / STATE).unlink(), "state.bin cannot be opened"),
    "memory cut": (lambda d: os.truncate(d / "ram0.bin", 1 << 20), "ram0.bin has been changed"),
    "memory written to": (write_to_ram, "ram0.bin has been changed"),
    "memory replaced": (replace_ram, "ram0.bin has been changed or replaced"),
    "memory a link": (link_ram, "ram0.bin cannot be opened"),
    "another guest's": (change(digest="e" * 64), "of another guest"),
    "another boot of the host": (change(host_boot_id="elsewhere"), "another boot of the host"),
    "another schema": (change(schema=99), "manifest: schema must be 1, not 99"),
    "no manifest": (lambda d: (d / MANIFEST).unlink(), "manifest.json cannot be opened"),
    "half a manifest": (lambda d: os.truncate(d / MANIFEST, 50), "manifest is not JSON"),
    "no keys": (lambda d: (d / KEYS / "id_rsa").unlink(), "id_rsa cannot be opened"),
    "no console": (lambda d: (d / CONSOLE).unlink(), "console.log cannot be opened"),
}


@pytest.mark.parametrize("wrong", WRONGS)
def test_what_is_not_as_it_was_left_is_refused_and_made_anew(tmp_path: Path, wrong: str) -> None:
    spoil, reason = WRONGS[wrong]
    store = Store(tmp_path)
    saves: list[Path] = []

    def counted(directory: Path) -> None:
        saves.append(directory)
        save(directory)

    snapshots = SnapshotStore(store)
    first, _ = snapshots.open(DIGEST, counted)
    first.close()
    spoil(store.path(KIND, DIGEST))
    with pytest.raises(BadSnapshot, match=reason):
        OpenSnapshot(store.path(KIND, DIGEST), DIGEST)
    again, discarded = snapshots.open(DIGEST, counted)
    again.close()
    assert len(saves) == 2
    assert reason in discarded


def test_nothing_is_left_open_when_a_snapshot_is_refused(tmp_path: Path) -> None:
    save(tmp_path)
    flip(tmp_path / STATE)
    before = set(Path("/proc/self/fd").iterdir())
    with pytest.raises(BadSnapshot):
        OpenSnapshot(tmp_path, DIGEST)
    assert set(Path("/proc/self/fd").iterdir()) == before


def test_a_new_one_that_cannot_be_used_is_an_error_not_a_loop(tmp_path: Path) -> None:
    with pytest.raises(BadSnapshot, match="another guest"):
        SnapshotStore(Store(tmp_path)).open("f" * 64, save)


def test_disk_use_is_bounded_and_the_newest_stays(tmp_path: Path) -> None:
    store = Store(tmp_path)
    kernel = store.fetch("kernel", "k", lambda directory: (directory / "bzImage").touch())
    snapshots = SnapshotStore(store, max_bytes=1)
    for digest in ("1" * 64, "2" * 64):

        def save_as(directory: Path, digest: str = digest) -> None:
            save(directory)
            change(digest=digest)(directory)

        snapshot, _ = snapshots.open(digest, save_as)
        assert os.pread(snapshot.ram["ram0"], 6, 0) == b"memory"
        snapshot.close()
    assert not store.path(KIND, "1" * 64).exists()
    assert kernel.exists()


@given(st.binary(max_size=300))
def test_no_bytes_are_taken_for_a_manifest(data: bytes) -> None:
    with pytest.raises(BadSnapshot):
        parse_manifest(data)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(Manifest.__struct_fields__), inner, max_size=11)
        ),
        max_leaves=20,
    )
)
def test_no_json_of_another_shape_is_taken_for_a_manifest(data: object) -> None:
    with pytest.raises(BadSnapshot):
        parse_manifest(json.dumps(data).encode())
