# SPDX-License-Identifier: MIT
"""build_qemu on file systems that are too small, each a little less: it ends in one clear error."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.qemu_in_small import tarball, write_carried

_CHILD = """
import json, os, subprocess, sys
from pathlib import Path
from harness.base.status import HarnessError
from harness.base.store import Store
from harness.kernel.make import Toolchain
from harness.qemu import build

build.check_tools = lambda: None
Toolchain.detect = classmethod(lambda cls: Toolchain("gcc 1", "ld 1"))
place, source, carried = map(Path, sys.argv[1:4])
for kib in map(int, sys.argv[4:]):
    mount = ["mount", "-t", "tmpfs", "-o", f"size={kib}k", "none", str(place)]
    subprocess.run(mount, check=True)
    store = Store(place / "store")
    told = {"kib": kib, "status": "", "cause": ""}
    try:
        build.build_qemu(source, store, directory=carried)
    except HarnessError as error:
        told |= {"status": error.status.value, "cause": error.cause, "hint": error.hint}
    told["whole"] = all(
        (entry.path / "build.json").exists() or (entry.path / "manifest.json").exists()
        for entry in store.entries()
    )
    told["entries"] = sorted(entry.kind for entry in store.entries())
    told["left"] = [path.name for path in (store.root / "tmp").glob("*")]
    print(json.dumps(told), flush=True)
    subprocess.run(["umount", str(place)], check=True)
"""
_NAMESPACE = ["unshare", "--user", "--map-root-user", "--mount"]


def _can_mount(place: Path) -> bool:
    mount = ["mount", "-t", "tmpfs", "none", str(place)]
    try:
        done = subprocess.run([*_NAMESPACE, *mount], capture_output=True, check=False)
    except FileNotFoundError:
        return False
    return done.returncode == 0


def test_too_little_space_is_the_hosts_fault_and_leaves_nothing(tmp_path: Path) -> None:
    place = tmp_path / "small"
    place.mkdir()
    if not _can_mount(place):
        pytest.skip("this user may not mount a tmpfs in a namespace of its own")
    source = tmp_path / "qemu.tar.xz"
    source.write_bytes(tarball())
    carried = write_carried(tmp_path / "carried")
    sizes = [*range(4, 84, 8), 1024]
    command = [*_NAMESPACE, sys.executable, "-c", _CHILD, str(place), str(source), str(carried)]
    environment = os.environ | {"TALLY": os.devnull}
    done = subprocess.run(
        [*command, *map(str, sizes)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    told = [json.loads(line) for line in done.stdout.splitlines()]
    assert [each["kib"] for each in told] == sizes
    for each in told:
        assert each["whole"], each
        assert each["left"] == [], each
        if each["status"]:
            assert each["status"] == "MISS", each
            assert "no space left on device" in each["cause"], each
            assert "cvm-harness gc" in each["hint"], each
    assert told[-1]["entries"] == ["qemu", "qemu-source"]
    stages = {tuple(each["entries"]) for each in told if each["status"]}
    assert stages == {(), ("qemu-source",)}, "the disk was full at one stage only"
