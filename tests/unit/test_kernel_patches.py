# SPDX-License-Identifier: MIT
"""Patches on a small tree: applied, recognised, refused with file and hunk."""

import subprocess
from functools import partial
from pathlib import Path

import pytest

from harness.base.status import UsageError
from harness.kernel.patches import apply_patches, touched_files
from harness.kernel.series import Patch, patches_digest
from harness.kernel.tree import SourceTree, read_directory, scan
from harness.kernel.version import Version

LINES = [f"line {number}" for number in range(1, 41)]


def write(root: Path, path: str, lines: list[str]) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text("\n".join(lines) + "\n")


def run(root: Path, *argv: str) -> None:
    identity = ["-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *identity, *argv], cwd=root, check=True, capture_output=True)


@pytest.fixture
def history(tmp_path: Path) -> Path:
    """A repository whose three commits after the tag "base" are the patches."""
    root = tmp_path / "repository"
    root.mkdir()
    write(root, "mm/a.c", LINES)
    write(root, "gone.c", LINES)
    write(root, "Makefile", ["all:"])
    run(root, "init", "-q")
    run(root, "add", ".")
    run(root, "commit", "-qm", "base")
    run(root, "tag", "base")
    write(root, "mm/a.c", [*LINES[:9], "TEN", *LINES[10:]])
    write(root, "new/b.c", ["ä new file"])
    run(root, "add", ".")
    run(root, "commit", "-qm", "one: ä")
    # the second changes the line that the first made
    write(root, "mm/a.c", [*LINES[:9], "TEN and more", *LINES[10:29], "THIRTY", *LINES[30:]])
    run(root, "commit", "-qam", "two")
    run(root, "rm", "-q", "gone.c")
    (root / "Makefile").chmod(0o755)
    run(root, "commit", "-qam", "three")
    return root


@pytest.fixture
def patches(history: Path, tmp_path: Path) -> list[Patch]:
    run(history, "format-patch", "-q", "-o", str(tmp_path / "patches"), "base")
    return [Patch(file) for file in sorted((tmp_path / "patches").iterdir())]


def tree_at(history: Path, ref: str) -> SourceTree:
    run(history, "checkout", "-q", ref)
    return SourceTree(
        scan(history), partial(read_directory, history), Version(6, 12, 1), "test", {}
    )


def test_applied_in_order(history: Path, patches: list[Patch], tmp_path: Path) -> None:
    final = {path: (history / path).read_bytes() for path in ("mm/a.c", "new/b.c")}
    applied = apply_patches(tree_at(history, "base"), patches, tmp_path / "scratch")
    assert applied.present == ()
    assert applied.overlay == {
        "mm/a.c": ("100644", final["mm/a.c"]),
        "new/b.c": ("100644", final["new/b.c"]),
        "gone.c": None,
        "Makefile": ("100755", b"all:\n"),
    }
    assert (history / "mm/a.c").read_text().splitlines() == LINES, "the user's tree was written"
    assert list((tmp_path / "scratch").iterdir()) == []


def test_a_mailbox_is_its_patches(history: Path, patches: list[Patch], tmp_path: Path) -> None:
    mbox = tmp_path / "series.mbox"
    mbox.write_bytes(b"".join(patch.file.read_bytes() for patch in patches))
    tree = tree_at(history, "base")
    scratch = tmp_path / "scratch"
    assert apply_patches(tree, [Patch(mbox)], scratch) == apply_patches(tree, patches, scratch)


def test_encoded_mail(history: Path, tmp_path: Path) -> None:
    import base64

    diff = subprocess.run(
        ["git", "diff", "base", "HEAD", "--", "new"], cwd=history, capture_output=True, check=True
    ).stdout
    mail = tmp_path / "mail"
    mail.write_bytes(
        b"From x Mon Sep 17 00:00:00 2001\nFrom: a <a@example.org>\nSubject: s\n"
        b"Content-Type: text/plain; charset=UTF-8\nContent-Transfer-Encoding: base64\n\n"
        + base64.encodebytes(b"text\n---\n" + diff)
    )
    overlay = apply_patches(tree_at(history, "base"), [Patch(mail)], tmp_path / "scratch").overlay
    assert overlay == {"new/b.c": ("100644", "ä new file\n".encode())}


@pytest.mark.parametrize("held", [1, 2, 3])
def test_what_the_tree_has_is_recognised(
    history: Path, patches: list[Patch], tmp_path: Path, held: int
) -> None:
    everything = apply_patches(tree_at(history, "base"), patches, tmp_path / "scratch").overlay
    tree = tree_at(history, f"master~{3 - held}" if has_master(history) else f"main~{3 - held}")
    applied = apply_patches(tree, patches, tmp_path / "scratch")
    assert applied.present == tuple(patch.file.name for patch in patches[:held])
    assert applied.overlay == everything


def has_master(history: Path) -> bool:
    branches = subprocess.run(
        ["git", "branch", "--format=%(refname:short)"],
        cwd=history,
        capture_output=True,
        text=True,
        check=True,
    )
    return "master" in branches.stdout


def test_refusal_names_patch_file_line_and_hunk(
    history: Path, patches: list[Patch], tmp_path: Path
) -> None:
    tree = tree_at(history, "base")
    write(history, "mm/a.c", [*LINES[:28], "changed", "changed too", *LINES[30:]])
    tree = SourceTree(scan(history), tree.read, tree.version, "test", {})
    with pytest.raises(UsageError) as caught:
        apply_patches(tree, patches, tmp_path / "scratch")
    name = patches[1].file.name
    assert caught.value.cause == (
        f"{name} does not apply to kernel 6.12.1: hunk 2 failed in mm/a.c at line 27"
    )
    assert caught.value.hint


def test_a_file_that_is_not_there(history: Path, patches: list[Patch], tmp_path: Path) -> None:
    tree = tree_at(history, "base")
    (history / "mm/a.c").unlink()
    tree = SourceTree(scan(history), tree.read, tree.version, "test", {})
    with pytest.raises(UsageError, match=r"0001-.* does not apply .*failed in mm/a\.c"):
        apply_patches(tree, patches, tmp_path / "scratch")


def test_no_patch_at_all(history: Path, tmp_path: Path) -> None:
    file = tmp_path / "text.patch"
    file.write_text("hello\n")
    with pytest.raises(UsageError, match=r"text\.patch is not a usable patch"):
        apply_patches(tree_at(history, "base"), [Patch(file)], tmp_path / "scratch")
    with pytest.raises(UsageError, match="cannot read the patch"):
        patches_digest([Patch(tmp_path / "none.patch")])


def test_the_digest_knows_order_and_content(tmp_path: Path) -> None:
    first, second = tmp_path / "1", tmp_path / "2"
    first.write_text("1")
    second.write_text("2")
    one, two = Patch(first), Patch(second)
    assert patches_digest([one, two]) != patches_digest([two, one])
    renamed = Patch(first.rename(tmp_path / "other"))
    second.write_text("1")
    assert patches_digest([renamed]) == patches_digest([two])


def test_the_digest_knows_the_sources(with_sources: Patch) -> None:
    digests = {patches_digest([with_sources]), patches_digest([Patch(with_sources.file)])}
    assert with_sources.sources
    (with_sources.sources / "new/own.c").write_text("changed\n")
    digests.add(patches_digest([with_sources]))
    (with_sources.sources / "new/own.c").rename(with_sources.sources / "new/other.c")
    assert len(digests | {patches_digest([with_sources])}) == 4


@pytest.fixture
def with_sources(tmp_path: Path) -> Patch:
    """Changes line 10 of mm/a.c, and adds new/own.c and run.sh."""
    sources = tmp_path / "src"
    write(sources, "new/own.c", ["int own;"])
    write(sources, "run.sh", ["#!/bin/sh"])
    (sources / "run.sh").chmod(0o755)
    hunk = "--- a/mm/a.c\n+++ b/mm/a.c\n@@ -9,3 +9,3 @@\n line 9\n-line 10\n+TEN\n line 11\n"
    (tmp_path / "hook.patch").write_text(hunk)
    return Patch(tmp_path / "hook.patch", sources)


def test_sources_are_copied_in_before_later_patches(
    history: Path, with_sources: Patch, tmp_path: Path
) -> None:
    later = tmp_path / "later.patch"
    later.write_text("--- a/new/own.c\n+++ b/new/own.c\n@@ -1 +1 @@\n-int own;\n+int mine;\n")
    tree = tree_at(history, "base")
    scratch = tmp_path / "scratch"
    applied = apply_patches(tree, [with_sources, Patch(later)], scratch)
    assert applied.overlay["new/own.c"] == ("100644", b"int mine;\n")
    assert applied.overlay["run.sh"] == ("100755", b"#!/bin/sh\n")
    assert applied.overlay["mm/a.c"] is not None
    assert b"\nTEN\n" in applied.overlay["mm/a.c"][1]
    # A tree that has both is recognised, and stays what it is.
    for path, content in applied.overlay.items():
        assert content
        write(history, path, content[1].decode().splitlines())
    (history / "run.sh").chmod(0o755)
    patched = SourceTree(scan(history), tree.read, tree.version, "test", {})
    again = apply_patches(patched, [with_sources, Patch(later)], scratch)
    assert again.present == ("hook.patch", "later.patch")
    assert again.overlay == applied.overlay


def test_a_tree_with_another_version_of_a_source_is_refused(
    history: Path, with_sources: Patch, tmp_path: Path
) -> None:
    tree = tree_at(history, "base")
    write(history, "mm/a.c", [*LINES[:9], "TEN", *LINES[10:]])
    write(history, "new/own.c", ["int own; /* work in progress */"])
    write(history, "run.sh", ["#!/bin/sh"])
    (history / "run.sh").chmod(0o755)
    patched = SourceTree(scan(history), tree.read, tree.version, "test", {})
    with pytest.raises(UsageError, match=r"hook\.patch is in kernel 6\.12\.1 .*another new/own\.c"):
        apply_patches(patched, [with_sources], tmp_path / "scratch")


def test_a_source_that_would_overwrite_a_file_is_refused(
    history: Path, with_sources: Patch, tmp_path: Path
) -> None:
    tree = tree_at(history, "base")
    write(history, "new/own.c", ["somebody else's"])
    taken = SourceTree(scan(history), tree.read, tree.version, "test", {})
    with pytest.raises(UsageError, match=r"new/own\.c already exists"):
        apply_patches(taken, [with_sources], tmp_path / "scratch")


def test_renames_and_copies_are_touched() -> None:
    patch = (
        b"diff --git a/old.c b/new.c\nsimilarity index 100%\nrename from old.c\nrename to new.c\n"
        b"diff --git a/x y.c b/x y.c\n--- a/x y.c\t\n+++ b/x y.c\t\n@@ -1 +1 @@\n-a\n+b\n"
    )
    assert {"old.c", "new.c", "x y.c"} <= touched_files(patch)
