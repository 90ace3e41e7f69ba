# SPDX-License-Identifier: MIT
"""Patches on a small tree: applied, recognised, refused with file and hunk."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from harness.base.status import UsageError
from harness.kernel.patches import apply_patches, patches_digest, touched_files
from harness.kernel.tree import DirectoryReader, SourceTree, scan
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
def patches(history: Path, tmp_path: Path) -> list[Path]:
    run(history, "format-patch", "-q", "-o", str(tmp_path / "patches"), "base")
    return sorted((tmp_path / "patches").iterdir())


def tree_at(history: Path, ref: str) -> SourceTree:
    run(history, "checkout", "-q", ref)
    return SourceTree(scan(history), DirectoryReader(history), Version(6, 12, 1), "test", {})


def test_applied_in_order(history: Path, patches: list[Path], tmp_path: Path) -> None:
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


def test_a_mailbox_is_its_patches(history: Path, patches: list[Path], tmp_path: Path) -> None:
    mbox = tmp_path / "series.mbox"
    mbox.write_bytes(b"".join(patch.read_bytes() for patch in patches))
    tree = tree_at(history, "base")
    scratch = tmp_path / "scratch"
    assert apply_patches(tree, [mbox], scratch) == apply_patches(tree, patches, scratch)


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
    overlay = apply_patches(tree_at(history, "base"), [mail], tmp_path / "scratch").overlay
    assert overlay == {"new/b.c": ("100644", "ä new file\n".encode())}


@pytest.mark.parametrize("held", [1, 2, 3])
def test_what_the_tree_has_is_recognised(
    history: Path, patches: list[Path], tmp_path: Path, held: int
) -> None:
    everything = apply_patches(tree_at(history, "base"), patches, tmp_path / "scratch").overlay
    tree = tree_at(history, f"master~{3 - held}" if has_master(history) else f"main~{3 - held}")
    applied = apply_patches(tree, patches, tmp_path / "scratch")
    assert applied.present == tuple(patch.name for patch in patches[:held])
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
    history: Path, patches: list[Path], tmp_path: Path
) -> None:
    tree = tree_at(history, "base")
    write(history, "mm/a.c", [*LINES[:28], "changed", "changed too", *LINES[30:]])
    tree = SourceTree(scan(history), tree.reader, tree.version, "test", {})
    with pytest.raises(UsageError) as caught:
        apply_patches(tree, patches, tmp_path / "scratch")
    assert caught.value.cause == (
        f"{patches[1].name} does not apply to kernel 6.12.1: hunk 2 failed in mm/a.c at line 27"
    )
    assert caught.value.hint


def test_a_file_that_is_not_there(history: Path, patches: list[Path], tmp_path: Path) -> None:
    tree = tree_at(history, "base")
    (history / "mm/a.c").unlink()
    tree = SourceTree(scan(history), tree.reader, tree.version, "test", {})
    with pytest.raises(UsageError, match=r"0001-.* does not apply .*failed in mm/a\.c"):
        apply_patches(tree, patches, tmp_path / "scratch")


def test_no_patch_at_all(history: Path, tmp_path: Path) -> None:
    file = tmp_path / "text.patch"
    file.write_text("hello\n")
    with pytest.raises(UsageError, match=r"text\.patch is not a usable patch"):
        apply_patches(tree_at(history, "base"), [file], tmp_path / "scratch")
    with pytest.raises(UsageError, match="cannot read the patch"):
        patches_digest([tmp_path / "none.patch"])


def test_the_digest_knows_order_and_content(tmp_path: Path) -> None:
    first, second = tmp_path / "1", tmp_path / "2"
    first.write_text("1")
    second.write_text("2")
    assert patches_digest([first, second]) != patches_digest([second, first])
    renamed = first.rename(tmp_path / "other")
    second.write_text("1")
    assert patches_digest([renamed]) == patches_digest([second])


def test_renames_and_copies_are_touched() -> None:
    patch = (
        b"diff --git a/old.c b/new.c\nsimilarity index 100%\nrename from old.c\nrename to new.c\n"
        b"diff --git a/x y.c b/x y.c\n--- a/x y.c\t\n+++ b/x y.c\t\n@@ -1 +1 @@\n-a\n+b\n"
    )
    assert {"old.c", "new.c", "x y.c"} <= touched_files(patch)
