# SPDX-License-Identifier: MIT
"""Manifests and work trees: equal content is one digest, and only what differs is written."""

import os
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.base.progress import silent
from harness.base.status import HostError, UsageError
from harness.base.store import Store
from harness.kernel.source import open_source, parse_source, scan_git
from harness.kernel.tree import (
    SourceTree,
    blob_id,
    read_directory,
    scan,
)
from harness.kernel.version import Version
from harness.kernel.worktree import WorkTree

MAKEFILE = "VERSION = 6\nPATCHLEVEL = 12\nSUBLEVEL = 5\n"


def run(root: Path, *argv: str) -> str:
    identity = ["-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", *identity, *argv], cwd=root, check=True, capture_output=True)
    return done.stdout.decode().strip()


@pytest.fixture
def kernel(tmp_path: Path) -> Path:
    """A committed tree that looks like a kernel from afar."""
    root = tmp_path / "linux"
    (root / "arch/x86").mkdir(parents=True)
    (root / "Makefile").write_text(MAKEFILE)
    (root / "Kconfig").write_text("")
    (root / "arch/x86/Kconfig").write_text("")
    (root / "run.sh").write_text("#!/bin/sh\n")
    (root / "run.sh").chmod(0o755)
    (root / "link").symlink_to("./Makefile")
    (root / ".gitignore").write_text("*.o\n.config\n")
    run(root, "init", "-q")
    run(root, "add", ".")
    run(root, "commit", "-qm", "base")
    return root


def test_every_door_gives_the_same_digest(kernel: Path, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    commit = open_source(parse_source(f"git:{kernel}@HEAD"), store, silent)
    directory = open_source(parse_source(str(kernel)), store, silent)
    assert commit.manifest == directory.manifest == scan(kernel)
    assert commit.digest == directory.digest
    assert commit.version == Version(6, 12, 5)
    expected = run(kernel, "rev-parse", "HEAD:run.sh")
    assert commit.manifest["run.sh"] == f"100755 {expected}"
    for read in (commit.read, directory.read):
        assert dict(read(["link", "Makefile"])) == {
            "link": b"./Makefile",
            "Makefile": MAKEFILE.encode(),
        }


def test_a_git_tree_is_taken_as_it_lies_on_disk(kernel: Path) -> None:
    index = (kernel / ".git/index").read_bytes()
    (kernel / "Makefile").write_text(MAKEFILE + "# changed\n")
    (kernel / "new.c").write_text("new")
    (kernel / "new.o").write_text("ignored")
    (kernel / "run.sh").unlink()
    manifest = scan_git(kernel)
    assert manifest["Makefile"].endswith(blob_id((MAKEFILE + "# changed\n").encode()))
    assert "new.c" in manifest
    assert manifest.keys().isdisjoint({"new.o", "run.sh", ".git/index"})
    assert (kernel / ".git/index").read_bytes() == index, "the user's index was written"


def test_a_plain_tree_leaves_out_what_a_build_left(tmp_path: Path) -> None:
    for path in ("mm/a.o", ".config", "vmlinux", "include/generated/x.h", "arch/x86/vmlinux.lds.S"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text("x")
    assert set(scan(tmp_path)) == {"arch/x86/vmlinux.lds.S"}
    assert len(scan(tmp_path, exclude=False)) == 5


def test_the_scan_cache_sees_changes(tmp_path: Path) -> None:
    root, cache = tmp_path / "tree", tmp_path / "cache.json"
    root.mkdir()
    (root / "a").write_text("one")
    first = scan(root, cache)
    times = (root / "a").stat()
    (root / "a").write_text("two")
    os.utime(root / "a", ns=(times.st_atime_ns, times.st_mtime_ns))  # size and mtime as before
    assert scan(root, cache) != first
    assert scan(root, cache) == scan(root)


def test_the_scan_cache_spares_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, cache = tmp_path / "tree", tmp_path / "cache.json"
    root.mkdir()
    (root / "a").write_text("one")
    monkeypatch.setattr("time.time_ns", lambda: (root / "a").stat().st_ctime_ns + 3 * 10**9)
    first = scan(root, cache)
    monkeypatch.setattr("harness.kernel.tree.blob_id", lambda data: pytest.fail("read again"))
    assert scan(root, cache) == first


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("{root}/none", "does not exist"),
        ("{root}/arch", "not a kernel tree: it has no Makefile"),
        ("git:{root}/none@HEAD", "not a git repository"),
        ("git:{root}@nosuch", "no commit 'nosuch'"),
        ("git:{root}@HEAD:Makefile", "no commit"),
    ],
)
def test_what_is_no_kernel(kernel: Path, tmp_path: Path, text: str, cause: str) -> None:
    with pytest.raises(UsageError, match=cause) as caught:
        open_source(parse_source(text.format(root=kernel)), Store(tmp_path / "s"), silent)
    assert caught.value.hint


def test_a_makefile_of_something_else(kernel: Path, tmp_path: Path) -> None:
    (kernel / "Makefile").write_text("all:\n")
    with pytest.raises(UsageError, match="is not a kernel tree"):
        open_source(parse_source(str(kernel)), Store(tmp_path / "s"), silent)


def test_an_unknown_ref_of_a_shallow_clone_says_so(kernel: Path, tmp_path: Path) -> None:
    (kernel / "x").write_text("")
    run(kernel, "add", "x")
    run(kernel, "commit", "-qm", "second")
    run(tmp_path, "clone", "-q", "--depth=1", f"file://{kernel}", "shallow")
    with pytest.raises(UsageError, match="shallow clone") as caught:
        open_source(parse_source(f"git:{tmp_path}/shallow@HEAD~1"), Store(tmp_path / "s"), silent)
    assert "--unshallow" in caught.value.hint


# Work trees


@dataclass
class CountingReader:
    """Reads from memory and remembers what was read."""

    files: dict[str, bytes]

    def __post_init__(self) -> None:
        self.read_paths: list[str] = []

    def read(self, paths: Iterable[str]) -> Iterator[tuple[str, bytes]]:
        for path in paths:
            self.read_paths.append(path)
            yield path, self.files[path]


def memory_tree(files: dict[str, bytes]) -> tuple[SourceTree, CountingReader]:
    reader = CountingReader(files)
    manifest = {path: f"100644 {blob_id(data)}" for path, data in files.items()}
    return SourceTree(manifest, reader.read, Version(6, 12), "memory", {}), reader


def content(root: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and "obj" not in path.parts
    }


# "d" is a file in one tree and a directory in another
paths = st.sampled_from(["a", "b/c", "b/e", "d", "d/f", "d/g/h"])


def consistent(files: dict[str, bytes]) -> dict[str, bytes]:
    return {path: data for path, data in files.items() if path != "d" or len(files) == 1}


trees = st.dictionaries(paths, st.binary(max_size=3), max_size=5).map(consistent)


@settings(max_examples=50, deadline=None)
@given(st.lists(trees, min_size=1, max_size=4))
def test_a_work_tree_becomes_any_tree(
    tmp_path_factory: pytest.TempPathFactory,
    steps: list[dict[str, bytes]],
) -> None:
    work = WorkTree(tmp_path_factory.mktemp("work"))
    held: dict[str, bytes] = {}
    for files in steps:
        tree, reader = memory_tree(files)
        touched = work.sync(tree, {})
        differing = {path for path in files if held.get(path) != files[path]}
        assert set(reader.read_paths) == differing
        assert touched == len(differing) + len(held.keys() - files.keys())
        if files or held:
            assert content(work.source) == files
        held = files


def test_unchanged_files_keep_their_inode_and_time(tmp_path: Path) -> None:
    work = WorkTree(tmp_path)
    tree, _ = memory_tree({"a": b"1", "b": b"2"})
    work.sync(tree, {})
    before = (work.source / "a").stat()
    work.sync(tree, {"b": ("100755", b"patched"), "n": ("100644", b"new")})
    after = (work.source / "a").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert content(work.source) == {"a": b"1", "b": b"patched", "n": b"new"}
    assert (work.source / "b").stat().st_mode & 0o100
    work.sync(tree, {"a": None})
    assert content(work.source) == {"b": b"2"}


def test_a_sync_that_died_is_taken_up(tmp_path: Path) -> None:
    work = WorkTree(tmp_path)
    first, _ = memory_tree({"a": b"1", "b": b"1"})
    second, reader = memory_tree({"a": b"2", "b": b"2"})
    work.sync(first, {})
    del reader.files["b"]  # the second sync dies between its two files
    with pytest.raises(KeyError):
        work.sync(second, {})
    assert content(work.source) == {"a": b"2", "b": b"1"}
    work.sync(first, {})
    assert content(work.source) == {"a": b"1", "b": b"1"}


def test_linked_files_are_never_written_through(tmp_path: Path) -> None:
    pristine = tmp_path / "pristine"
    pristine.mkdir()
    (pristine / "a").write_text("1")
    tree = SourceTree(
        scan(pristine),
        partial(read_directory, pristine),
        Version(6, 12),
        "x",
        {},
        linkable=pristine,
    )
    work = WorkTree(tmp_path / "work")
    work.sync(tree, {})
    assert (work.source / "a").stat().st_ino == (pristine / "a").stat().st_ino
    work.sync(tree, {"a": ("100644", b"patched")})
    assert (pristine / "a").read_text() == "1"
    # back to the original: copied with a new time, or make would keep the patched object
    patched = (work.source / "a").stat().st_mtime_ns
    work.sync(tree, {})
    assert (work.source / "a").read_text() == "1"
    assert (work.source / "a").stat().st_mtime_ns >= patched


def test_a_tree_that_changes_while_it_is_copied(tmp_path: Path) -> None:
    tree, reader = memory_tree({"a": b"1"})
    reader.files["a"] = b"other"
    with pytest.raises(HostError, match="a changed while"):
        WorkTree(tmp_path).sync(tree, {})


def test_objects_of_a_killed_build_are_thrown_away(tmp_path: Path) -> None:
    work = WorkTree(tmp_path)
    assert work.prepare_objects()
    (work.objects / ".config").write_text("x")
    assert not work.prepare_objects()
    work.unfinished.touch()
    assert work.prepare_objects()
    assert list(work.objects.iterdir()) == []
    assert not work.unfinished.exists()


@given(st.dictionaries(st.text(min_size=1, max_size=5), st.text(max_size=5), max_size=5))
def test_the_digest_ignores_order_only(manifest: dict[str, str]) -> None:
    def digest(manifest: dict[str, str]) -> str:
        return SourceTree(manifest, partial(read_directory, Path()), Version(6, 12), "x", {}).digest

    assert digest(dict(reversed(manifest.items()))) == digest(manifest)
    assert digest({**manifest, "one more": "x"}) != digest(manifest)
