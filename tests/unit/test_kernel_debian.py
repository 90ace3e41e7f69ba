# SPDX-License-Identifier: MIT
"""Fetching a series with the real apt, from a small archive in a directory."""

import io
import json
import os
import shutil
import tarfile
import time
from pathlib import Path

import pytest

from harness.base.progress import silent
from harness.base.status import HostError
from harness.base.store import Store
from harness.kernel import apt, debian
from harness.kernel.packages import PackageNotFoundError
from tests.support.debian_archive import Archive, use_archive

pytestmark = pytest.mark.skipif(
    not (shutil.which("apt-get") and shutil.which("dpkg-deb")), reason="apt is not installed"
)


class Sources:
    """An archive of kernel sources."""

    def __init__(self, archive: Archive) -> None:
        self._archive = archive
        self.root = archive.root
        self.publish_nothing = archive.publish_nothing

    def publish(self, suite: str, version: str, series: str = "6.12") -> None:
        """Make the package of `series` in `version` the only one of that name in `suite`."""
        name = f"linux-source-{series}"
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w:xz") as tar:
            makefile = f"VERSION = 6\nPATCHLEVEL = 12\n# {version}\n".encode()
            entry = tarfile.TarInfo(f"{name}/Makefile")
            entry.size = len(makefile)
            tar.addfile(entry, io.BytesIO(makefile))
            link = tarfile.TarInfo(f"{name}/link")
            link.type, link.linkname = tarfile.SYMTYPE, "Makefile"
            tar.addfile(link)
        files = {f"./usr/src/{name}.tar.xz": packed.getvalue()}
        self._archive.publish(suite, name, version, files)


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sources:
    return Sources(use_archive(tmp_path / "archive", monkeypatch))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def age(store: Store) -> None:
    """Let everything remembered become too old to be believed."""
    old = time.time() - apt.LISTS_MAX_AGE_S - 1
    for file in store.work("apt").rglob("*"):
        if file.is_file():
            os.utime(file, (old, old))


def test_a_newer_suite_of_the_same_mirror(archive: Sources, store: Store) -> None:
    archive.publish_nothing("bookworm")
    archive.publish("trixie", "6.12.7-1")
    package = debian.fetch_source("6.12", store, silent)
    assert package.records[0].suite == "trixie/main"
    assert package.records[0].version == "6.12.7-1"
    tree = package.directory / "tree"
    assert "# 6.12.7-1" in (tree / "Makefile").read_text()
    manifest = json.loads((package.directory / "manifest.json").read_text())
    assert set(manifest) == {"Makefile", "link"}
    assert not (tree / "Makefile").stat().st_mode & 0o222
    assert {path.name for path in package.directory.iterdir()} <= {
        *("tree", "manifest.json", ".last-used")
    }


def test_without_a_network_the_last_answer_holds(
    archive: Sources, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive.publish("bookworm", "6.12.7-1")
    first = debian.fetch_source("6.12", store, silent)
    # nobody listens on TCP port 1
    stanza = apt.Stanza(("http://127.0.0.1:1/debian",), ("bookworm",), ("main",))
    monkeypatch.setattr(apt, "machine_stanzas", lambda: [stanza])
    monkeypatch.setattr(apt, "RETRIES", 0)
    assert debian.fetch_source("6.12", store, silent) == first
    age(store)
    notes: list[str] = []
    again = debian.fetch_source("6.12", store, lambda stage, done, total, note: notes.append(note))
    assert again == first
    assert any("using 6.12.7-1 from the cache" in note for note in notes)
    with pytest.raises(HostError, match="could not fetch the package lists of this system"):
        debian.fetch_source("7.3", store, silent)


def test_a_newer_version_is_taken_once_the_answer_is_old(archive: Sources, store: Store) -> None:
    archive.publish("bookworm", "6.12.7-1")
    debian.fetch_source("6.12", store, silent)
    archive.publish("bookworm", "6.12.10-1")
    assert debian.fetch_source("6.12", store, silent).records[0].version == "6.12.7-1"
    age(store)
    assert debian.fetch_source("6.12", store, silent).records[0].version == "6.12.10-1"


def test_versions_are_compared_as_debian_does(tmp_path: Path, archive: Sources) -> None:
    archive.publish("bookworm", "6.12.10-1~bpo12+1")
    archive.publish("bookworm-updates", "6.12.9-1")
    stanza = apt.Stanza(
        (f"file:{archive.root}",), ("bookworm-updates", "bookworm"), ("main",), {"Trusted": "yes"}
    )
    source = apt.Apt(tmp_path / "apt", apt.Suites("both", (stanza,)))
    source.update(lambda percent: None)
    newest = source.newest(["linux-source-6.12"])
    assert newest
    assert newest.version == "6.12.10-1~bpo12+1"


def test_a_series_that_is_gone_names_the_suites(archive: Sources, store: Store) -> None:
    archive.publish("bookworm", "6.12.7-1")
    with pytest.raises(PackageNotFoundError) as caught:
        debian.fetch_source("5.4", store, silent)
    assert "5.4" in caught.value.cause
    assert "this system, bookworm-backports, trixie" in caught.value.cause


def test_a_broken_package_leaves_nothing(archive: Sources, store: Store) -> None:
    archive.publish("bookworm", "6.12.7-1")
    (deb,) = archive.root.glob("*.deb")
    deb.write_bytes(deb.read_bytes()[:-1] + b"x")
    with pytest.raises(HostError, match=r"6\.12\.7-1"):
        debian.fetch_source("6.12", store, silent)
    assert store.entries() == []
    # and the next attempt, with the archive mended, succeeds
    archive.publish("bookworm", "6.12.7-1")
    age(store)
    assert debian.fetch_source("6.12", store, silent).records[0].version == "6.12.7-1"


def test_a_package_replaced_since_the_lists_were_fetched(archive: Sources, store: Store) -> None:
    archive.publish("bookworm", "6.12.7-1")
    debian.fetch_source("6.12", store, silent)
    shutil.rmtree(store.root / "entries")
    (archive.root / "linux-source-6.12_6.12.7-1_all.deb").unlink()
    archive.publish("bookworm", "6.12.8-1")
    assert debian.fetch_source("6.12", store, silent).records[0].version == "6.12.8-1"
