# SPDX-License-Identifier: MIT
"""Archives are what the kernel and cpio(1) read, and equal content gives equal bytes."""

import shutil
import stat
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.image import cpio
from tests.support.cpio import read

_names = st.text(
    st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=20
).filter(lambda name: name not in (".", "..", "TRAILER!!!"))
_files = st.dictionaries(_names, st.binary(max_size=300), max_size=8)


@given(_files)
def test_what_was_written_is_read_back(files: dict[str, bytes]) -> None:
    data = cpio.archive(cpio.file(name, content) for name, content in files.items())
    assert {node.path: node.data for node in read(data)} == files
    assert len(data) % cpio.ALIGNMENT == 0


@given(_files)
def test_order_of_input_does_not_show(files: dict[str, bytes]) -> None:
    nodes = [cpio.file(f"d/{name}", content) for name, content in files.items()]
    assert cpio.archive(nodes) == cpio.archive(reversed(nodes))


def test_header_is_that_of_the_kernels_buffer_format() -> None:
    data = cpio.archive([cpio.character_device("dev/console", 5, 1, 0o600)])
    at = data.index(b"dev/console") - 110
    fields = [int(data[at + 6 + 8 * i : at + 14 + 8 * i], 16) for i in range(13)]
    assert data[at : at + 6] == b"070701"
    # Inode 2 (after "dev"), mode, root:root, 1 link, time 0, no data, on device 0:0, is 5:1.
    assert fields == [2, stat.S_IFCHR | 0o600, 0, 0, 1, 0, 0, 0, 0, 5, 1, 12, 0]


def test_parents_are_made_and_come_first() -> None:
    data = cpio.archive(
        [cpio.file("a/b/c", b"x"), cpio.file("a-b", b""), cpio.directory("a", 0o700)]
    )
    nodes = list(read(data))
    assert [node.path for node in nodes] == ["a", "a/b", "a/b/c", "a-b"]
    assert stat.S_IMODE(nodes[0].mode) == 0o700


def test_the_later_of_two_nodes_counts() -> None:
    (node,) = read(cpio.archive([cpio.file("f", b"old"), cpio.file("f", b"new")]))
    assert node.data == b"new"


@pytest.mark.parametrize("path", ["", "/etc", "a//b", "a/../b", "./a", "TRAILER!!!", "a\0b"])
def test_paths_that_lead_elsewhere_are_refused(path: str) -> None:
    with pytest.raises(ValueError, match="not a path"):
        cpio.file(path, b"")


@pytest.mark.skipif(not shutil.which("cpio"), reason="cpio is not installed")
def test_cpio_extracts_it(tmp_path: Path) -> None:
    data = cpio.archive(
        [
            cpio.file("etc/passwd", b"root\n", 0o600),
            cpio.symlink("bin/sh", "/bin/busybox"),
            cpio.directory("tmp", 0o1777),
        ]
    )
    argv = ["cpio", "-i", "--quiet", "--no-preserve-owner"]
    subprocess.run(argv, input=data, cwd=tmp_path, check=True, timeout=30)
    assert (tmp_path / "etc/passwd").read_bytes() == b"root\n"
    assert stat.S_IMODE((tmp_path / "etc/passwd").stat().st_mode) == 0o600
    assert (tmp_path / "bin/sh").readlink() == Path("/bin/busybox")
    assert (tmp_path / "tmp").stat().st_mode & stat.S_ISVTX
