# SPDX-License-Identifier: MIT
"""QEMU's source from the distribution (the real apt, a small archive), a tarball, a directory."""

import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.base.progress import silent
from harness.base.status import HostError, UsageError
from harness.base.store import Store
from harness.kernel.version import Version
from harness.qemu.source import open_source, upstream_version
from tests.support.debian_archive import Archive, use_archive
from tests.support.qemu_in_small import tarball, write_source

needs_apt = pytest.mark.skipif(not shutil.which("apt-get"), reason="apt is not installed")


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Archive:
    return use_archive(tmp_path / "archive", monkeypatch)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@needs_apt
def test_the_first_suite_with_a_release_that_patches_are_carried_for(
    archive: Archive, store: Store
) -> None:
    archive.publish_source("bookworm", "qemu", "1:7.2.22+dfsg-1", tarball("7.2.22"))
    archive.publish_source("trixie", "qemu", "1:10.0.13+ds-0+deb13u1", tarball())
    tree = open_source(None, store, silent)
    assert tree.version == Version(10, 0, 13)
    assert tree.provenance["suite"] == "trixie/main"
    assert tree.provenance["version"] == "1:10.0.13+ds-0+deb13u1"
    assert {"configure", "VERSION"} <= tree.manifest.keys()
    assert "roms/x" not in tree.manifest, "firmware's sources are half of the tarball"
    assert tree.linkable
    assert not (tree.linkable / "VERSION").stat().st_mode & 0o222


@needs_apt
def test_no_release_that_patches_are_carried_for(archive: Archive, store: Store) -> None:
    archive.publish_source("bookworm", "qemu", "1:7.2.22+dfsg-1", tarball("7.2.22"))
    with pytest.raises(HostError, match="suites searched: this system, ") as caught:
        open_source(None, store, silent)
    assert "10.0.13" in caught.value.cause
    assert "--source" in caught.value.hint


@needs_apt
def test_a_damaged_download_leaves_nothing(archive: Archive, store: Store) -> None:
    file = archive.publish_source("bookworm", "qemu", "1:10.0.13+ds-1", tarball())
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(HostError, match=r"10\.0\.13"):
        open_source(None, store, silent)
    assert store.entries() == []


def test_a_tarball_and_its_directory_are_the_same_source(tmp_path: Path, store: Store) -> None:
    file = tmp_path / "qemu.tar.xz"
    file.write_bytes(tarball())
    packed = open_source(file, store, silent)
    plain = open_source(write_source(tmp_path / "qemu"), store, silent)
    assert packed.digest == plain.digest
    assert packed.family != plain.family


@pytest.mark.parametrize("keep", [0, 100, -200])
def test_a_broken_tarball_is_bad_input_and_leaves_nothing(
    tmp_path: Path, store: Store, keep: int
) -> None:
    file = tmp_path / "qemu.tar.xz"
    file.write_bytes(tarball()[:keep])
    with pytest.raises(UsageError, match="not a usable archive") as caught:
        open_source(file, store, silent)
    assert str(file) in caught.value.cause
    assert caught.value.details
    assert store.entries() == []
    assert list((store.root / "tmp").iterdir()) == []


def test_another_archive_is_not_taken_for_qemu(tmp_path: Path, store: Store) -> None:
    file = tmp_path / "other.tar"
    shutil.make_archive(str(file.with_suffix("")), "tar", write_source(tmp_path / "a"), "target")
    with pytest.raises(UsageError, match="not a QEMU source"):
        open_source(file, store, silent)
    assert store.entries() == []


def test_what_a_build_leaves_in_the_directory_is_no_source(tmp_path: Path, store: Store) -> None:
    root = write_source(tmp_path / "qemu")
    before = open_source(root, store, silent).digest
    for path in ("build/config.status", "scripts/__pycache__/a.pyc", "block/a.o"):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text("x")
    assert open_source(root, store, silent).digest == before


def test_bad_sources_are_named(tmp_path: Path, store: Store) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        open_source(tmp_path / "none", store, silent)
    with pytest.raises(UsageError, match=r"VERSION holds 'tip'"):
        open_source(write_source(tmp_path / "tip", VERSION="tip\n"), store, silent)


@given(
    st.integers(1, 99),
    st.integers(0, 99),
    st.none() | st.integers(0, 99),
    st.sampled_from(["", "1:", "12:"]),
    st.sampled_from(["", "+ds-1", "+dfsg-7+deb12u18", "~rc1-1", "-1", "-rc2"]),
)
def test_upstream_version(
    major: int, minor: int, patch: int | None, epoch: str, revision: str
) -> None:
    text = f"{major}.{minor}" + ("" if patch is None else f".{patch}")
    assert upstream_version(epoch + text + revision) == Version(major, minor, patch or 0)


@given(st.text())
def test_upstream_version_of_anything(text: str) -> None:
    upstream_version(text)  # must not raise


def test_four_numbers_are_no_release() -> None:
    assert upstream_version("10.0.13.1") is None
