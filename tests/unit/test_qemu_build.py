# SPDX-License-Identifier: MIT
"""build_qemu end to end, over a source that builds in a moment."""

import errno
import json
import multiprocessing
import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest

from harness.base.status import HostError, Status, UsageError
from harness.base.store import Store
from harness.kernel.make import Toolchain
from harness.kernel.patches import apply_patches
from harness.qemu import build as module
from harness.qemu.binary import emulated_platforms
from harness.qemu.build import BuiltQemu, build_qemu, held_qemu
from tests.support.qemu_in_small import MAIN, tarball, write_carried, write_source


@pytest.fixture(autouse=True)
def toolchain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "check_tools", lambda: None)
    monkeypatch.setattr(Toolchain, "detect", lambda: Toolchain("gcc 1", "ld 1"))


@pytest.fixture
def tally(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that gets a line for every configure and every file compiled."""
    monkeypatch.setenv("TALLY", str(tmp_path / "tally"))
    return tmp_path / "tally"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def carried(tmp_path: Path) -> Path:
    return write_carried(tmp_path / "carried")


@pytest.fixture
def source(tmp_path: Path, tally: Path) -> Path:
    return write_source(tmp_path / "qemu")


def steps(tally: Path) -> list[str]:
    """What was done since the last call, in alphabetical order."""
    done = [Path(line).name for line in tally.read_text().splitlines()] if tally.exists() else []
    tally.unlink(missing_ok=True)
    return sorted(done)


def build(source: Path, store: Store, carried: Path, force: bool = False) -> BuiltQemu:
    return build_qemu(source, store, directory=carried, force=force)


def test_built_once(source: Path, store: Store, carried: Path, tally: Path) -> None:
    first = build(source, store, carried)
    assert steps(tally) == ["configure", "cpu.c", "cvm-harness.mak"]
    assert first.version == "10.0.13"
    assert first.binary.read_text().startswith(MAIN)
    assert emulated_platforms(first.binary) == {"tdx", "snp"}
    record = json.loads((first.binary.parent / "build.json").read_text())
    assert record["says"] == "QEMU emulator version 10.0.13"
    assert record["platforms"] == ["snp", "tdx"]
    assert [patch["file"] for patch in record["patches"]] == ["0001-build.patch"]
    assert "target/i386/cgs/cgs.c" in record["patches"][0]["sources"]
    assert "Linking target" in (first.binary.parent / "build.log").read_text()
    assert build(source, store, carried) == first
    assert steps(tally) == []


def test_what_is_carried_is_in_the_copy_and_not_in_the_source(
    source: Path, store: Store, carried: Path
) -> None:
    build(source, store, carried)
    (copy,) = (store.root / "work").glob("qemu-*/source")
    assert (copy / "meson.build").read_text() == "project('qemu')\n# ours\n"
    assert (copy / "target/i386/cgs/cgs.c").read_text() == "/* ours */\n"
    assert (copy / "configs/devices/x86_64-softmmu/cvm-harness.mak").read_text()
    assert (source / "meson.build").read_text() == "project('qemu')\n"


def test_only_what_changed_is_compiled(
    source: Path, store: Store, carried: Path, tally: Path
) -> None:
    first = build(source, store, carried)
    steps(tally)
    (carried / "devices.mak").write_text("CONFIG_Q35=y\nCONFIG_VIRTIO_BLK=y\n")
    second = build(source, store, carried)
    assert second.digest != first.digest
    assert steps(tally) == ["cvm-harness.mak"]
    (carried / "src/build/target/i386/cgs/cgs.c").write_text("/* changed */\n")
    assert build(source, store, carried).digest not in (first.digest, second.digest)
    assert steps(tally) == [], "nothing of the small source compiles cgs.c"
    (source / "target/i386/cpu.c").write_text(MAIN + "# changed\n")
    build(source, store, carried)
    assert steps(tally) == ["cpu.c"]


def test_a_changed_configure_is_run_again(
    source: Path, store: Store, carried: Path, tally: Path
) -> None:
    build(source, store, carried)
    steps(tally)
    with (source / "configure").open("a") as file:
        file.write("# another release\n")
    build(source, store, carried)
    assert steps(tally)[0] == "configure"


def test_a_tree_whose_python_is_gone_is_configured_again(
    source: Path, store: Store, carried: Path, tally: Path
) -> None:
    build(source, store, carried)
    steps(tally)
    (python,) = (store.root / "work").glob("qemu-*/source/obj/pyvenv/bin/python3")
    python.unlink()
    (carried / "devices.mak").write_text("")
    build(source, store, carried)
    assert steps(tally)[0] == "configure"


def test_force_builds_from_nothing(source: Path, store: Store, carried: Path, tally: Path) -> None:
    first = build(source, store, carried)
    steps(tally)
    assert build(source, store, carried, force=True).digest == first.digest
    assert steps(tally) == ["configure", "cpu.c", "cvm-harness.mak"]


def test_a_release_without_patches_is_refused(tmp_path: Path, store: Store, carried: Path) -> None:
    source = write_source(tmp_path / "new", VERSION="10.1.0\n")
    with pytest.raises(UsageError, match=r"no carried patches for QEMU 10\.1\.0") as caught:
        build(source, store, carried)
    assert "since 10.0.13 before 10.1.0" in caught.value.details[0]


def test_a_patch_that_does_not_fit_names_file_and_hunk(
    tmp_path: Path, store: Store, carried: Path, tally: Path
) -> None:
    source = write_source(tmp_path / "odd", **{"meson.build": "project('other')\n"})
    with pytest.raises(UsageError, match=r"0001-build\.patch does not apply to QEMU 10\.0\.13"):
        build(source, store, carried)
    assert steps(tally) == [], "found out before anything was built"


def test_a_compiler_error_is_the_cause(source: Path, store: Store, carried: Path) -> None:
    (carried / "devices.mak").write_text("error\n")
    with pytest.raises(HostError, match=r"does not build: .*mak:1: error: bad") as caught:
        build(source, store, carried)
    assert caught.value.status is Status.MISS
    log = Path(caught.value.hint.rpartition(" ")[2])
    assert "FAILED" in log.read_text()
    assert [entry.kind for entry in store.entries()] == []
    (carried / "devices.mak").write_text("")
    assert build(source, store, carried).binary.exists()


def test_mesons_error_is_the_cause(source: Path, store: Store, carried: Path, tally: Path) -> None:
    (source / "broken-configure").touch()
    with pytest.raises(HostError, match=r'meson\.build:7:2: ERROR: Dependency "glib-2\.0"'):
        build(source, store, carried)
    assert store.entries() == []
    (source / "broken-configure").unlink()
    assert build(source, store, carried).binary.exists()


def test_a_full_disk_is_the_hosts_fault(
    source: Path, store: Store, carried: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copy", full)
        with pytest.raises(HostError, match="no space left on device under ") as caught:
            build(source, store, carried)
        assert "cvm-harness gc" in caught.value.hint
    assert store.entries() == []
    cpu = source / "target/i386/cpu.c"
    cpu.write_text(f"{MAIN}: error: No space left on device\n")
    with pytest.raises(HostError, match="no space left on device while building QEMU"):
        build(source, store, carried)
    cpu.write_text(MAIN)
    assert build(source, store, carried).binary.exists()


def test_what_is_missing_is_named_with_its_packages(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.undo()
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(HostError, match="cannot build QEMU: missing gcc, ") as caught:
        build_qemu(tmp_path, Store(tmp_path / "store"))
    assert caught.value.hint == "apt-get install binutils gcc git pkg-config util-linux"
    assert not (tmp_path / "store").exists(), "nothing was begun"


def test_the_qemu_that_was_built_last_is_the_one_that_runs_use(
    tmp_path: Path, source: Path, store: Store, carried: Path
) -> None:
    assert held_qemu(store, carried) is None
    first = build(source, store, carried)
    assert held_qemu(store, carried) == first
    file = tmp_path / "qemu.tar.xz"
    file.write_bytes(tarball())
    (source / "target/i386/cpu.c").write_text(MAIN + "# changed\n")
    second = build(source, store, carried)
    assert held_qemu(store, carried) == second
    time.sleep(0.02)  # the marks are files' times
    build(file, store, carried)  # the content of `first`
    assert held_qemu(store, carried) == first
    (carried / "devices.mak").write_text("CONFIG_VIRTIO_BLK=y\n")
    assert held_qemu(store, carried) is None, "what is carried has changed"


def _child(source: Path, root: Path, carried: Path) -> None:
    os.setpgrp()
    build(source, Store(root), carried)


@pytest.mark.parametrize("seed", range(50))
def test_killed_at_any_moment_nothing_is_half_made(
    source: Path, store: Store, carried: Path, tally: Path, seed: int
) -> None:
    (carried / "devices.mak").write_text(f"# {seed}\n")
    process = multiprocessing.get_context("fork").Process(
        target=_child, args=(source, store.root, carried)
    )
    process.start()
    time.sleep(random.Random(seed).uniform(0, 0.5))
    assert process.pid
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    for entry in store.entries():
        assert (entry.path / "build.json").exists()
    built = build(source, store, carried)
    assert built.binary.read_text() == f"{MAIN}# {seed}\n"
    assert held_qemu(store, carried) == built
    leftovers = [path.name for path in (store.root / "tmp").iterdir()]
    assert leftovers == []


def test_the_first_use_builds_and_says_so(
    source: Path, store: Store, carried: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "held_qemu", lambda store: held_qemu(store, carried))
    monkeypatch.setattr(
        module, "build_qemu", lambda _, store, progress: build(source, store, carried)
    )
    notes: list[str] = []
    first = module.ensure_qemu(store, lambda stage, done, total, note: notes.append(note))
    assert any("no QEMU that emulates TDX and SNP is built yet" in note for note in notes)
    notes.clear()
    assert module.ensure_qemu(store, lambda stage, done, total, note: notes.append(note)) == first
    assert notes == []


def test_what_is_edited_during_a_build_is_not_in_it(
    source: Path, store: Store, carried: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = carried / "src/build/target/i386/cgs/cgs.c"
    compile_all = module._compile

    def edit_later(*arguments: object) -> int:
        ours.write_text("/* edited while it compiles */\n")
        return compile_all(*arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(module, "_compile", edit_later)
        built = build(source, store, carried)
    assert held_qemu(store, carried) is None, "the binary has not seen the edit"
    assert build(source, store, carried).digest != built.digest

    def edit_first(*arguments: object) -> object:
        ours.write_text("/* edited while it is read */\n")
        return apply_patches(*arguments)  # type: ignore[arg-type]

    (carried / "devices.mak").write_text("")
    monkeypatch.setattr(module, "apply_patches", edit_first)
    with pytest.raises(HostError, match="edited while it was read"):
        build(source, store, carried)
