# SPDX-License-Identifier: MIT
"""Carried patches as commits, and back: nothing changes on the way, and nothing is lost."""

import subprocess
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import pytest

from harness.base.status import UsageError
from harness.kernel.patch_tree import refresh, write_tree
from harness.kernel.patches import apply_patches
from harness.kernel.series import Series, read_series
from harness.kernel.source import scan_git
from harness.kernel.tree import SourceTree, read_directory, scan
from harness.kernel.version import Version, makefile_version

SERIES = """\
[[release]]
name = "6.12"
since = "6.12"
before = "6.13"
[[patch]]
name = "trace"
summary = "an event"
[[patch]]
name = "emulation"
summary = "a platform"
[[patch]]
name = "bugs"
summary = "bugs"
fragment = "bugs"
"""
MAKEFILE = "VERSION = 6\nPATCHLEVEL = 12\nSUBLEVEL = 5\n"
LINES = [f"line {number}\n" for number in range(1, 31)]


def patch(subject: str, body: str, changes: Mapping[int, str]) -> str:
    """A patch of mm/a.c as a person might write it: other offsets, an index line, a date."""
    hunks = "".join(
        f"@@ -{at - 1},3 +{at - 1},3 @@\n {LINES[at - 2]}-{LINES[at - 1]}+{new}\n {LINES[at]}"
        for at, new in changes.items()
    )
    return (
        "From 0123456789012345678901234567890123456789 Mon Sep 17 00:00:00 2001\n"
        "From: Zoë <zoe@example.org>\nDate: Tue, 1 Dec 2026 00:00:00 +0000\n"
        f"Subject: [PATCH 1/2] {subject}\n\n{body}\n---\n mm/a.c | 2 +-\n\n"
        f"diff --git a/mm/a.c b/mm/a.c\nindex 1234567..89abcde 100644\n--- a/mm/a.c\n+++ b/mm/a.c\n"
        f"{hunks}-- \n2.39.5\n"
    )


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.fixture
def source(tmp_path: Path) -> SourceTree:
    root = tmp_path / "linux"
    write(root / "Makefile", MAKEFILE)
    write(root / "mm/a.c", "".join(LINES))
    write(root / 'odd "name"', "x\n")
    write(root / "run.sh", "#!/bin/sh\n")
    (root / "run.sh").chmod(0o755)
    (root / "link").symlink_to("Makefile")
    return SourceTree(scan(root), partial(read_directory, root), Version(6, 12, 5), "test", {})


@pytest.fixture
def series(tmp_path: Path) -> Series:
    root = tmp_path / "carried"
    write(root / "series.toml", SERIES)
    signed = "Why: ä.\n\nSigned-off-by: Zoë <zoe@example.org>"
    patches = root / "patches/6.12"
    write(patches / "0001-trace.patch", patch("mm: trace", signed, {5: "FIVE"}))
    write(patches / "0002-emulation.patch", patch("mm: emulate", "No trailer.", {15: "15"}))
    write(patches / "0003-bugs.patch", patch("mm: bugs", signed, {25: "25"}))
    write(root / "src/emulation/mm/own.c", "int own;\n")
    write(root / "src/emulation/tool", "#!/bin/sh\n")
    (root / "src/emulation/tool").chmod(0o755)
    return read_series(root)


def git(root: Path, *argv: str) -> str:
    identity = ["-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", *identity, *argv], cwd=root, check=True, capture_output=True)
    return done.stdout.decode().strip()


def write_back(tree: Path, series: Series) -> list[str]:
    changed = refresh(tree, series, lambda read: makefile_version(read("Makefile")))
    return [str(path.relative_to(series.directory)) for path in changed]


def files(root: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(path.relative_to(root)): (path.stat().st_mode & 0o777, path.read_bytes())
        for path in root.rglob("*")
        if path.is_file()
    }


@pytest.fixture
def tree(source: SourceTree, series: Series, tmp_path: Path) -> Path:
    """A tree of all patches, whose files are in the form that refresh writes."""
    first = tmp_path / "first"
    write_tree(source, series, first, ["bugs"])
    write_back(first, series)
    write_tree(source, series, tmp_path / "tree", ["bugs"])
    return tmp_path / "tree"


def test_the_tree_is_the_kernel_with_a_commit_for_each_patch(
    source: SourceTree, series: Series, tmp_path: Path
) -> None:
    root = tmp_path / "tree"
    assert [patch.name for patch in write_tree(source, series, root)] == ["trace", "emulation"]
    assert git(root, "log", "--format=%s by %an").splitlines() == [
        "mm: emulate by Zoë",
        "mm: trace by Zoë",
        "kernel 6.12.5 by cvm-harness developers",
    ]
    assert git(root, "status", "--porcelain") == ""
    applied = apply_patches(source, series.select(source.version), tmp_path / "scratch").overlay
    for path, content in applied.items():
        assert content
        assert (root / path).read_bytes() == content[1]
    unpatched = {"Makefile", 'odd "name"', "run.sh", "link"}
    assert set(git(root, "ls-files", "-z").split("\0")) - {""} == unpatched | applied.keys()
    assert (root / "link").is_symlink()
    assert (root / "run.sh").stat().st_mode & 0o100
    assert (root / "tool").stat().st_mode & 0o100
    assert git(root, "show", "-s", "--format=%b", "HEAD~1").splitlines() == [
        "Why: ä.",
        "",
        "Signed-off-by: Zoë <zoe@example.org>",
        "Carried-patch: trace",
    ]
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_the_tree_may_be_named_relative_to_here(
    source: SourceTree, series: Series, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert len(write_tree(source, series, Path("here"))) == 2
    assert git(tmp_path / "here", "log", "--format=%s").count("\n") == 2


def test_a_refresh_after_the_tree_was_made_changes_no_byte(
    tree: Path, series: Series, source: SourceTree, tmp_path: Path
) -> None:
    before = files(series.directory)
    assert write_back(tree, series) == []
    assert files(series.directory) == before
    write_tree(source, series, tmp_path / "again", ["bugs"])
    assert git(tmp_path / "again", "rev-parse", "HEAD") == git(tree, "rev-parse", "HEAD")


def test_what_refresh_writes_makes_the_same_kernel(
    tree: Path, series: Series, source: SourceTree, tmp_path: Path
) -> None:
    patches = series.select(source.version, ["bugs"])
    overlay = apply_patches(source, patches, tmp_path / "scratch").overlay
    lines = [*LINES[:4], "FIVE\n", *LINES[5:14], "15\n", *LINES[15:24], "25\n", *LINES[25:]]
    assert overlay == {
        "mm/a.c": ("100644", "".join(lines).encode()),
        "mm/own.c": ("100644", b"int own;\n"),
        "tool": ("100755", b"#!/bin/sh\n"),
    }
    text = patches[0].file.read_text()
    assert text.startswith(f"From {'0' * 40} Mon Sep 17 00:00:00 2001\nFrom: Zoë <zoe@example.org>")
    assert "Subject: [PATCH] mm: trace\n\nWhy: ä.\n\nSigned-off-by: " in text
    assert "index " not in text
    assert "Carried-patch" not in text


def test_the_users_settings_change_nothing(
    tree: Path, series: Series, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key, value in {
        **{"diff.noprefix": "true", "diff.algorithm": "patience", "diff.context": "9"},
        **{"color.ui": "always", "diff.renames": "copies", "log.showSignature": "true"},
        **{"core.quotePath": "true", "format.pretty": "raw", "diff.statGraphWidth": "5"},
    }.items():
        git(tree, "config", key, value)
    assert write_back(tree, series) == []


def amend(tree: Path) -> None:
    git(tree, "commit", "-qa", "--amend", "--no-edit")


def test_changed_commits_are_written_back(tree: Path, series: Series) -> None:
    git(tree, "reset", "-q", "--hard", "HEAD~1")
    write(tree / "mm/a.c", (tree / "mm/a.c").read_text().replace("line 16", "sixteen"))
    write(tree / "mm/own.c", "int other;\n")
    write(tree / "mm/second.c", "int second;\n")
    git(tree, "rm", "-q", "tool")
    git(tree, "add", ".")
    amend(tree)
    assert sorted(write_back(tree, series)) == [
        "patches/6.12/0002-emulation.patch",
        "src/emulation/mm/own.c",
        "src/emulation/mm/second.c",
        "src/emulation/tool",
    ]
    assert "+sixteen" in (series.directory / "patches/6.12/0002-emulation.patch").read_text()
    assert (series.directory / "src/emulation/mm/own.c").read_text() == "int other;\n"
    assert not (series.directory / "src/emulation/tool").exists()
    assert (series.directory / "patches/6.12/0003-bugs.patch").exists(), "not in the tree: left"
    assert write_back(tree, series) == []


def test_a_later_patch_of_a_source_stays_a_diff(tree: Path, series: Series) -> None:
    write(tree / "mm/own.c", "int own; /* buggy */\n")
    amend(tree)
    assert write_back(tree, series) == ["patches/6.12/0003-bugs.patch"]
    text = (series.directory / "patches/6.12/0003-bugs.patch").read_text()
    assert "-int own;\n+int own; /* buggy */\n" in text


def message(name: str) -> str:
    return f"subject\n\nCarried-patch: {name}"


@pytest.mark.parametrize(
    ("steps", "cause"),
    [
        ([["commit", "-q", "--allow-empty", "-m", "fix"]], r"\(fix\) has 0 trailers"),
        (
            [["commit", "-q", "--allow-empty", "-m", "x\n\nCarried-patch: a\nCarried-patch: b"]],
            r"\(x\) has 2 trailers",
        ),
        (
            [["commit", "-q", "--allow-empty", "-m", message("new")]],
            "for a patch new, which is not",
        ),
        ([["commit", "-q", "--allow-empty", "-m", message("trace")]], "both for the patch trace"),
        ([["commit", "-q", "--amend", "-m", message("nothing")]], "for a patch nothing"),
        ([["reset", "-q", "--hard", "HEAD~2"]], "no commit for the patch emulation"),
        ([["reset", "-q", "--hard", "HEAD~3"]], "none of the last 200 commits"),
        (
            [
                ["tag", "all"],
                ["reset", "-q", "--hard", "HEAD~3"],
                ["cherry-pick", "all~1", "all~2"],
            ],
            "the commits are in the order emulation, trace",
        ),
        (
            [
                ["checkout", "-qb", "side", "HEAD~1"],
                ["merge", "-q", "--no-ff", "-m", "m", "carried"],
            ],
            r"\(m\) is a merge",
        ),
        (
            [
                ["reset", "-q", "--hard", "HEAD~1"],
                ["commit", "-q", "--amend", "-m", message("emulation")],
                ["checkout", "-q", "HEAD~1", "--", "mm/a.c"],
                ["commit", "-q", "--amend", "--no-edit"],
            ],
            "changes no file of kernel 6.12.5",
        ),
        ([["rm", "-q", "run.sh"]], "changes that are not committed"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_written_back_changes_nothing(
    tree: Path, series: Series, steps: list[list[str]], cause: str
) -> None:
    for step in steps:
        git(tree, *step)
    before = files(series.directory)
    with pytest.raises(UsageError, match=cause) as caught:
        write_back(tree, series)
    assert caught.value.hint
    assert files(series.directory) == before


def test_a_kernel_that_no_release_is_for(tree: Path, series: Series, tmp_path: Path) -> None:
    git(tree, "checkout", "-q", "--orphan", "other", "HEAD~3")
    write(tree / "Makefile", MAKEFILE.replace("12", "14"))
    git(tree, "commit", "-qam", "kernel 6.14.5")
    git(tree, "cherry-pick", "carried~2", "carried~1", "carried")
    with pytest.raises(UsageError, match=r"is kernel 6\.14\.5, for which no patches are carried"):
        write_back(tree, series)
    text = SERIES.replace(
        "[[patch]]", '[[release]]\nname = "6.14"\nsince = "6.14"\nbefore = "6.15"\n[[patch]]', 1
    )
    write(series.directory / "series.toml", text)
    changed = write_back(tree, read_series(series.directory))
    assert changed == [f"patches/6.14/000{n}.patch" for n in ("1-trace", "2-emulation", "3-bugs")]


def test_where_there_is_no_tree(series: Series, source: SourceTree, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not a git tree"):
        write_back(tmp_path, series)
    with pytest.raises(UsageError, match="is not a git tree"):
        write_back(tmp_path / "none", series)
    with pytest.raises(UsageError, match="exists already"):
        write_tree(source, series, tmp_path)


def test_a_patch_that_does_not_apply_leaves_no_tree(
    source: SourceTree, series: Series, tmp_path: Path
) -> None:
    write(series.directory / "patches/6.12/0002-emulation.patch", patch("x", "y", {5: "no"}))
    with pytest.raises(UsageError, match="hunk 1 failed"):
        write_tree(source, series, tmp_path / "new" / "tree")
    assert list((tmp_path / "new").iterdir()) == []


def test_a_source_that_has_the_patches_and_a_fragment_without_any_are_refused(
    tree: Path, series: Series, tmp_path: Path
) -> None:
    patched = SourceTree(
        scan_git(tree),
        partial(read_directory, tree),
        Version(6, 12, 5),
        "test",
        {},
        product="kernel",
    )
    with pytest.raises(UsageError, match=r"the kernel has 0001-trace\.patch already"):
        write_tree(patched, series, tmp_path / "twice")
    with pytest.raises(UsageError, match=r"no patch belongs to the fragment bug$") as caught:
        write_tree(patched, series, tmp_path / "twice", ["bug"])
    assert caught.value.hint == "known: bugs"
    assert not (tmp_path / "twice").exists()
