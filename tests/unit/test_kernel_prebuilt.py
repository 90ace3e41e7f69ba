# SPDX-License-Identifier: MIT
"""Reading a bzImage: its facts, and no crash on bytes meant to cause one."""

import bz2
import gzip
import lzma
import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from harness.base.status import UsageError
from harness.base.store import Store
from harness.jobs.lab import keep_kernel
from harness.kernel.build import build_kernel
from harness.kernel.kernel import KernelRequest
from harness.kernel.prebuilt import read_bzimage
from harness.kernel.version import Version

CONFIG = "# Linux\nCONFIG_UNACCEPTED_MEMORY=y\n"


def bzimage(payload: bytes = b"", release: bytes = b"6.12.117-x (me@here) #1 SMP") -> bytes:
    """A setup header as Documentation/arch/x86/boot.rst has it, with `payload` behind."""
    setup = bytearray(5 * 512)
    setup[0x1F1] = 4
    struct.pack_into("<H", setup, 0x1FE, 0xAA55)
    setup[0x202:0x206] = b"HdrS"
    struct.pack_into("<HH", setup, 0x206, 0x020F, 0)
    struct.pack_into("<H", setup, 0x20E, 0x400 - 0x200)
    setup[0x211] = 1
    struct.pack_into("<II", setup, 0x248, 16, len(payload))
    setup[0x400 : 0x400 + len(release) + 1] = release + b"\0"
    return bytes(setup) + bytes(16) + payload


def vmlinux(config: str = CONFIG) -> bytes:
    return b"\x7fELF" + bytes(5000) + b"IKCFG_ST" + gzip.compress(config.encode()) + b"IKCFG_ED"


@pytest.mark.parametrize(
    "compress",
    [
        gzip.compress,
        bz2.compress,
        lzma.compress,
        lambda data: lzma.compress(data, format=lzma.FORMAT_ALONE),
        zstandard.ZstdCompressor().compress,
        # as the kernel's build appends it: the size of what was packed
        lambda data: zstandard.compress(data) + struct.pack("<I", len(data)),
    ],
)
def test_embedded_config_of_every_compression(
    tmp_path: Path, compress: Callable[[bytes], bytes]
) -> None:
    file = tmp_path / "bzImage"
    file.write_bytes(bzimage(compress(vmlinux())))
    image = read_bzimage(file)
    assert image.version == Version(6, 12, 117)
    assert image.release == "6.12.117-x"
    assert image.config == CONFIG


@pytest.mark.skipif(not shutil.which("lz4"), reason="the lz4 tool is not installed")
def test_embedded_config_of_lz4(tmp_path: Path) -> None:
    packed = subprocess.run(
        ["lz4", "-l", "-c"], input=vmlinux(), capture_output=True, check=True
    ).stdout
    file = tmp_path / "bzImage"
    file.write_bytes(bzimage(packed + struct.pack("<I", len(vmlinux()))))
    assert read_bzimage(file).config == CONFIG


def test_no_config_or_an_unknown_packing_is_not_an_error(tmp_path: Path) -> None:
    file = tmp_path / "bzImage"
    file.write_bytes(bzimage(gzip.compress(b"no config here")))
    assert read_bzimage(file).config is None
    file.write_bytes(bzimage(b"\x89LZO" + bytes(100)))
    assert read_bzimage(file).config is None


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "only 0 bytes"),
        (b"\x7fELF" + bytes(4096), "ELF"),
        (bytes(4096), "no setup header"),
        (bzimage()[:1000], "truncated"),
        (bzimage()[:0x211] + b"\0" + bzimage()[0x212:], "zImage"),
    ],
)
def test_other_files_are_refused_with_the_reason(tmp_path: Path, data: bytes, why: str) -> None:
    file = tmp_path / "file"
    file.write_bytes(data)
    with pytest.raises(UsageError, match=why):
        read_bzimage(file)


def test_a_version_that_is_none(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(bzimage(release=b"\xff\xfe"))
    with pytest.raises(UsageError, match="names no kernel version"):
        read_bzimage(file)


GOOD = bzimage(gzip.compress(vmlinux()))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    cut=st.integers(0, len(GOOD)),
    changes=st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), max_size=30),
    header=st.lists(st.tuples(st.integers(0x1F0, 0x268), st.integers(0, 255)), max_size=10),
)
@example(cut=len(GOOD), changes=[], header=[(0x20F, 0xFF), (0x20E, 0xFF)])
@example(cut=len(GOOD), changes=[], header=[(0x24B, 0xFF), (0x24F, 0xFF)])
def test_hostile_bytes(
    tmp_path: Path, cut: int, changes: list[tuple[int, int]], header: list[tuple[int, int]]
) -> None:
    data = bytearray(GOOD)
    for offset, value in [*changes, *header]:
        data[offset] = value
    file = tmp_path / "bzImage"
    file.write_bytes(data[:cut])
    try:
        image = read_bzimage(file)
    except UsageError:
        return
    assert str(image.version)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    file = tmp_path / "vmlinuz"
    file.write_bytes(bzimage(gzip.compress(vmlinux())))
    return file


def test_a_prebuilt_image(image: Path, tmp_path: Path) -> None:
    kernel = build_kernel(KernelRequest(str(image)), Store(tmp_path))
    assert (kernel.bzimage, kernel.version, kernel.release) == (image, "6.12.117", "6.12.117-x")
    assert kernel.config
    assert kernel.config.read_text() == CONFIG
    assert kernel.has("UNACCEPTED_MEMORY") is True
    assert kernel.has("UNACCEPTED_MEMORY_EMULATION") is False


def test_a_prebuilt_image_without_config_is_unknown(image: Path, tmp_path: Path) -> None:
    image.write_bytes(bzimage(b"\x89LZO"))
    kernel = build_kernel(KernelRequest(str(image)), Store(tmp_path))
    assert kernel.config is None
    assert kernel.has("UNACCEPTED_MEMORY") is None


@pytest.mark.parametrize(
    ("place", "config", "modules"),
    [
        ("boot/vmlinuz-6.12.117-x", "boot/config-6.12.117-x", "usr/lib/modules/6.12.117-x"),
        ("boot/vmlinuz-6.12.117-x", "boot/config-6.12.117-x", "lib/modules/6.12.117-x"),
        *(
            (f"{tree}/vmlinuz", f"{tree}/config", tree)
            for tree in ("usr/lib/modules/6.12.117-x", "lib/modules/6.12.117-x")
        ),
        *(
            ("boot/vmlinuz-6.12.117-x", f"{tree}/config", tree)
            for tree in ("usr/lib/modules/6.12.117-x", "lib/modules/6.12.117-x")
        ),
        ("entry/bzImage", "entry/.config", "entry/modules/lib/modules/6.12.117-x"),
    ],
)
def test_what_belongs_to_an_image_is_found_beside_it_and_kept(
    tmp_path: Path, place: str, config: str, modules: str
) -> None:
    for path in (tmp_path / place, tmp_path / config, tmp_path / modules / "modules.builtin"):
        path.parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / place).write_bytes(bzimage(b"\x89LZO"))
    (tmp_path / config).write_text("CONFIG_UNACCEPTED_MEMORY=y\n")
    (tmp_path / modules / "modules.builtin").write_text("kernel/virtio_pci.ko\n")
    store = Store(tmp_path / "cache")
    kernel = build_kernel(KernelRequest(str(tmp_path / place)), store)
    assert kernel.has("UNACCEPTED_MEMORY") is True
    assert kernel.has("UNACCEPTED_MEMORY_EMULATION") is False
    assert kernel.modules == tmp_path / modules
    kept = keep_kernel(kernel.bzimage, tmp_path / "kept")
    again = build_kernel(KernelRequest(str(kept.bzimage)), store)
    assert again.has("UNACCEPTED_MEMORY") is True
    assert again.modules
    assert (again.modules / "modules.builtin").is_file()


def test_a_prebuilt_image_cannot_be_changed(image: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="already built"):
        build_kernel(KernelRequest(str(image), settings=("A=y",)), Store(tmp_path))
