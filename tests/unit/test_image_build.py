# SPDX-License-Identifier: MIT
"""The image: reproducible, cached, composed as the kernel unpacks it; keys that others can read."""

import shutil
import stat
import subprocess
from pathlib import Path

import paramiko
import pytest
import zstandard

from harness.base.status import HostError, UsageError
from harness.base.store import Store
from harness.guest.ssh.session import ssh_command
from harness.image import cpio, hosttools, layers
from harness.image.build import Image, build_image, compose_initrd, compress
from harness.image.keys import SEED_BYTES, Keys
from tests.support.cpio import read

needs_tools = pytest.mark.skipif(
    not all(map(shutil.which, ("gcc", "busybox", "dropbearkey"))),
    reason="gcc, busybox-static or dropbear-bin is not installed",
)


def unpack(initrd: bytes) -> dict[str, cpio.Node]:
    """What the kernel makes of an initrd: zstd frames and plain archives in a row."""
    nodes: dict[str, cpio.Node] = {}
    while initrd:
        if initrd.startswith(b"\0"):
            initrd = initrd.lstrip(b"\0")
        elif initrd.startswith(b"070701"):
            nodes |= {node.path: node for node in read(initrd)}
            initrd = initrd[initrd.index(b"TRAILER!!!") + len(b"TRAILER!!!") :]
        else:
            frame = zstandard.ZstdDecompressor().decompressobj()
            nodes |= {node.path: node for node in read(frame.decompress(initrd))}
            initrd = frame.unused_data
    return nodes


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Image:
    return build_image(Store(tmp_path_factory.mktemp("cache")))


@needs_tools
def test_same_inputs_same_bytes(built: Image, tmp_path: Path) -> None:
    again = build_image(Store(tmp_path))
    assert again.digest == built.digest
    assert again.layers[0].path.read_bytes() == built.layers[0].path.read_bytes()


@needs_tools
def test_an_initrd_has_what_the_guest_needs(built: Image, tmp_path: Path) -> None:
    keys = Keys.generate(tmp_path)
    initrd = compose_initrd(built, keys, tmp_path / "initrd")
    assert stat.S_IMODE(initrd.stat().st_mode) == 0o600
    pieces = [*(layer.path for layer in built.layers), keys.layer]
    assert initrd.read_bytes() == b"".join(piece.read_bytes() for piece in pieces)
    assert all(piece.stat().st_size % cpio.ALIGNMENT == 0 for piece in pieces)
    nodes = unpack(initrd.read_bytes())
    assert nodes["init"].data == b"/usr/bin/cvm"
    assert nodes["bin/sh"].data == b"/bin/busybox"
    assert nodes["dev/console"].device == (5, 1)
    assert nodes["root/.ssh/authorized_keys"].data.decode() == f"{keys.authorized_key}\n"
    assert stat.S_IMODE(nodes["root/.ssh"].mode) == 0o700
    assert len(nodes["etc/harness/seed"].data) == SEED_BYTES
    for library in hosttools.libraries(hosttools.find("dropbear")):
        assert str(library).lstrip("/") in nodes
    assert "linuxrc" not in nodes


@needs_tools
def test_a_second_build_does_nothing(built: Image, monkeypatch: pytest.MonkeyPatch) -> None:
    root = built.layers[0].path.parents[3]
    monkeypatch.setattr(hosttools, "compile_static", lambda *_: pytest.fail("built again"))
    assert build_image(Store(root)) == built


def test_the_window_is_small_enough_for_a_guest_that_pays_for_memory() -> None:
    data = bytes(range(256)) * (1 << 14)
    packed = compress(data)
    assert zstandard.get_frame_parameters(packed).window_size <= 1 << 20
    assert zstandard.ZstdDecompressor().decompress(packed) == data


def test_unknown_layers_are_a_usage_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.image.build._base", lambda *_: None)
    with pytest.raises(UsageError, match="unknown image layer 'nginx'"):
        build_image(Store(tmp_path), ["nginx"])


def test_a_missing_tool_names_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    with pytest.raises(HostError, match="dropbear not found") as caught:
        hosttools.find("dropbear")
    assert "dropbear-bin" in caught.value.hint


@needs_tools
def test_a_dynamic_busybox_is_refused() -> None:
    with pytest.raises(HostError, match="not statically linked"):
        hosttools.require_static(hosttools.find("dropbear"), "busybox-static")


def test_compiler_errors_are_shown(tmp_path: Path) -> None:
    if not shutil.which("gcc"):
        pytest.skip("gcc is not installed")
    source = tmp_path / "bad.c"
    source.write_text("int main(void) { return unknown; }\n")
    with pytest.raises(HostError, match="gcc failed") as caught:
        hosttools.compile_static([source], tmp_path / "out")
    assert any("unknown" in line for line in caught.value.details)


def test_every_source_says_its_licence() -> None:
    for path in (layers.RECIPE / "src").iterdir():
        assert path.read_text().startswith("/* SPDX-License-Identifier: MIT */"), path


def test_keys_are_new_each_time_and_private(tmp_path: Path) -> None:
    one, two = Keys.generate(tmp_path / "a"), Keys.generate(tmp_path / "b")
    assert one.authorized_key != two.authorized_key
    assert one.host_public_key != two.host_public_key
    for path in (one.private_key, one.layer):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    ssh_command(2222, one)
    known = one.private_key.with_name("known_hosts").read_text()
    assert known == f"[127.0.0.1]:2222 {one.host_public_key}\n"


def test_paramiko_reads_the_client_key(tmp_path: Path) -> None:
    keys = Keys.generate(tmp_path)
    key = paramiko.RSAKey.from_private_key_file(str(keys.private_key))
    assert f"{key.get_name()} {key.get_base64()}" == keys.authorized_key


def test_dropbear_seeds_itself_from_the_kernels_generator_alone() -> None:
    program = b"\0/dev/urandom\0/proc/timer_list\0/proc/net/tcp\0/proc/sys/kernel\0/proc/vmstat\0"
    changed = b"\0/dev/urandom\0/none/timer_list\0/none/net/tcp\0/proc/sys/kernel\0/none/vmstat\0"
    assert layers.without_statistics(program) == changed


@needs_tools
def test_dropbear_reads_the_host_key(tmp_path: Path) -> None:
    keys = Keys.generate(tmp_path)
    key = tmp_path / "host_key"
    nodes = {node.path: node for node in read(keys.layer.read_bytes())}
    key.write_bytes(nodes["etc/dropbear/host_key"].data)
    argv = ["dropbearkey", "-y", "-f", str(key)]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=30)
    assert keys.host_public_key in done.stdout
