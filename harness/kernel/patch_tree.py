# SPDX-License-Identifier: MIT
"""A git tree with the carried patches as commits, each of which names its patch in a trailer, and
the way back. Neither direction adds anything of its own (dates, blob ids, names)."""

import contextlib
import email
import email.policy
import email.utils
import os
import re
import subprocess
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from harness.base.progress import Progress, silent
from harness.base.status import HostError, UsageError
from harness.kernel.gitcmd import complaint, environment, git, git_output
from harness.kernel.patches import apply_patches
from harness.kernel.series import Carried, Patch, Series
from harness.kernel.tree import FILE, PROGRAM, SourceTree, put_file, read_file
from harness.kernel.version import Version
from harness.kernel.worktree import Overlay

TRAILER = "Carried-patch"
BRANCH = "carried"
_AUTHOR = "cvm-harness developers <cvm-harness@localhost>"
_DATE = "946684800 +0000"
"""Of every commit (2000-01-01): equal content has equal commit ids."""
_DEPTH = 200
"""How many commits below HEAD the patches are looked for in."""


def write_tree(
    tree: SourceTree,
    series: Series,
    into: Path,
    fragments: Collection[str] = (),
    progress: Progress = silent,
) -> list[Carried]:
    """Make `into` a git tree: `tree`, and a commit for each of the patches that are returned.
    Raises UsageError if it exists, or where patches are not there, applied already, or do not
    apply."""
    if into.exists():
        raise UsageError(f"{into} exists already", hint="give the path of a new directory")
    if other := sorted({*fragments} - series.fragments):
        known = ", ".join(sorted(series.fragments))
        raise UsageError(f"no patch belongs to the fragment {other[0]}", hint=f"known: {known}")
    carried, patches = series.wanted(fragments), series.select(tree.version, fragments)
    into.parent.mkdir(parents=True, exist_ok=True)
    # Beside it and renamed: the directory is there whole or not at all.
    with tempfile.TemporaryDirectory(prefix=f".{into.name}-", dir=into.parent) as made:
        root = Path(made) / "tree"
        git_output(into.parent, "init", "--quiet", f"--initial-branch={BRANCH}", str(root))
        _fast_import(root, _commits(tree, carried, patches, Path(made), progress))
        progress("checkout", 0, None, str(into))
        git_output(root, "reset", "--quiet", "--hard")
        root.rename(into)
    return carried


_Files = Iterable[tuple[str, tuple[str, bytes] | None]]
"""Path, and mode and content; None: gone."""


def _commits(
    tree: SourceTree,
    carried: list[Carried],
    patches: list[Patch],
    scratch: Path,
    progress: Progress,
) -> Iterator[tuple[str, str, _Files]]:
    """(message, author, files that differ) of each commit of the tree."""
    yield f"{tree.product} {tree.version}\n", _AUTHOR, _content(tree, progress)
    before: Overlay = {}
    for number, patch in enumerate(carried, 1):
        progress("patches", number, len(carried), patch.name)
        applied = apply_patches(tree, patches[:number], scratch)
        if applied.present:
            raise UsageError(
                f"the {tree.product} has {applied.present[0]} already",
                hint="give a source without the carried patches",
            )
        changed = [i for i in applied.overlay.items() if before.get(i[0]) != i[1]]
        yield *_commit_of(patches[number - 1].file, patch.name), changed
        before = applied.overlay


def _content(tree: SourceTree, progress: Progress) -> _Files:
    manifest = tree.manifest
    for number, (path, data) in enumerate(tree.read(sorted(manifest))):
        if number % 1000 == 0:
            progress("source", number, len(manifest), f"{tree.product} {tree.version}")
        yield path, (manifest[path].split()[0], data)


def _fast_import(root: Path, commits: Iterable[tuple[str, str, _Files]]) -> None:
    """git-fast-import(1) of `commits` into the branch of a new repository."""
    # Deltas cost time where every file is there once.
    options = ("-c", "core.compression=1", "-c", "fastimport.unpackLimit=0")
    argv = ["git", "-C", str(root), *options, "fast-import", "--quiet", "--done", "--depth=0"]
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(argv, env=environment(), stdin=subprocess.PIPE, stderr=said)
        with contextlib.suppress(BrokenPipeError), process:  # git says more than a broken pipe
            assert process.stdin
            for commit in commits:
                _write_commit(process.stdin, *commit)
            process.stdin.write(b"done\n")
        if process.returncode:
            said.seek(0)
            lines = said.read().decode(errors="replace").splitlines()
            raise HostError("git fast-import failed", hint="is the disk full?", details=lines[-5:])


def _write_commit(pipe: IO[bytes], message: str, author: str, files: _Files) -> None:
    def data(content: bytes) -> None:
        pipe.write(b"data %d\n" % len(content) + content + b"\n")

    pipe.write(f"commit refs/heads/{BRANCH}\n".encode())
    pipe.write(f"author {author} {_DATE}\ncommitter {author} {_DATE}\n".encode())
    data(message.encode())
    for path, content in files:
        if content is None:
            pipe.write(b"D " + _quoted(path) + b"\n")
        else:
            pipe.write(f"M {content[0]} inline ".encode() + _quoted(path) + b"\n")
            data(content[1])


def _quoted(path: str) -> bytes:
    escaped = os.fsencode(path).replace(b"\\", b"\\\\").replace(b'"', b'\\"').replace(b"\n", b"\\n")
    return b'"' + escaped + b'"'


def _commit_of(file: Path, name: str) -> tuple[str, str]:
    """(message, author) of the commit for a patch file."""
    mail = email.message_from_bytes(file.read_bytes(), policy=email.policy.default)
    subject = re.sub(r"^\[PATCH[^]]*\]\s*", "", str(mail["Subject"] or ""))
    author, address = email.utils.parseaddr(str(mail["From"] or ""))
    if not (subject and author and address):
        raise UsageError(
            f"{file} has no Subject or no From",
            hint="carried patches are mails with both, as git-format-patch(1) writes them",
        )
    text = mail.get_payload(decode=True)
    assert isinstance(text, bytes)
    body = text.decode().partition("\n---\n")[0].strip("\n")
    last = body.rpartition("\n\n")[2]
    joint = "\n" if re.fullmatch(r"(?:[\w-]+: .*\n?)+", last) else "\n\n"
    return f"{subject}\n\n{body}{joint}{TRAILER}: {name}\n", f"{author} <{address}>"


# The way back.


@dataclass(frozen=True)
class _Commit:
    id: str
    parents: tuple[str, ...]
    author: str
    subject: str
    body: str
    patches: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.id[:12]} ({self.subject})"

    def mail(self) -> bytes:
        """The head of a patch file, as git-format-patch(1) writes it, without a date."""
        return (
            f"From {'0' * 40} Mon Sep 17 00:00:00 2001\n"
            f"From: {self.author}\n"
            f"Subject: [PATCH] {self.subject}\n\n"
            f"{self.body}\n---\n"
        ).encode()


# Whatever the user's diff.* settings are. Without "index" lines: they change with every release.
_DIFF = (
    *("--no-renames", "--no-color", "--no-ext-diff", "--no-textconv", "--diff-algorithm=myers"),
    *("--unified=3", "--src-prefix=a/", "--dst-prefix=b/", "--no-relative", "--full-index"),
    *("--stat=78", "--patch"),
)
_INDEX_LINE = re.compile(rb"^index [0-9a-f]{40}\.\.[0-9a-f]{40}(?: \d+)?\n", re.M)


def refresh(
    repository: Path, series: Series, version: Callable[[Callable[[str], str]], Version | None]
) -> list[Path]:
    """Write the patches back from the commits on HEAD of `repository`, all or none; the files that
    changed. `version` finds the version of the commit below the patches, given what reads a file of
    it.

    Raises UsageError for a tree with changes that are not committed, and for commits that are not
    one for each patch of series.toml, in its order.
    """
    make_one = f"cvm-harness {series.product.lower()} tree makes one"
    _require_clean(repository, make_one)
    base, commits = _carried_commits(repository, make_one)
    matched = _match(commits, series)
    found = version(lambda path: git_output(repository, "show", f"{base}:{path}").decode())
    release = series.release_of(found) if found else None
    if release is None:
        raise UsageError(
            f"{repository} is {series.product} {found}, for which no patches are carried",
            hint=f"add a [[release]] to {series.directory / 'series.toml'}; there are: "
            f"{series.ranges}",
        )
    wanted: dict[Path, tuple[str, bytes] | None] = {}
    for patch, commit in matched:
        argv = ("diff-tree", "-r", "-z", "--name-only", "--no-renames", "--diff-filter=A")
        added = git_output(repository, *argv, commit.parents[0], commit.id).split(b"\0")[:-1]
        changes = ("--diff-filter=a", commit.parents[0], commit.id)
        diff = _INDEX_LINE.sub(b"", git_output(repository, "diff-tree", *_DIFF, *changes))
        if not diff:
            raise UsageError(
                f"commit {commit} changes no file of {series.product} {found}",
                hint="something must use the files that it adds; drop it if there are none",
            )
        wanted[series.patch_file(release, patch)] = FILE, commit.mail() + diff
        sources = series.source_directory(patch)
        wanted |= {file: None for file in sources.rglob("*") if file.is_file()}
        for path in map(os.fsdecode, added):
            wanted[sources / path] = _blob(repository, commit, path)
    return [path for path, content in wanted.items() if _put(path, content)]


def _require_clean(repository: Path, make_one: str) -> None:
    top = git(repository, "rev-parse", "--show-toplevel")
    if top.returncode:
        raise UsageError(f"{repository} is not a git tree", hint=make_one, details=complaint(top))
    changed = git_output(repository, "status", "--porcelain").decode().splitlines()
    if changed:
        raise UsageError(
            f"{repository} has changes that are not committed",
            hint="commit them to the patch that they belong to (git commit --amend, git rebase -i)",
            details=changed[:10],
        )


def _carried_commits(repository: Path, make_one: str) -> tuple[str, list[_Commit]]:
    """(the commit below the patches, the commits above it in order)."""
    text = git_output(
        repository,
        *("log", "--first-parent", f"-n{_DEPTH}", "-z"),
        "--format=%H%n%P%n%an <%ae>%n%s%n%b",
    )
    commits = []
    trailer = re.compile(rf"^{TRAILER}: *(\S+)\n?", re.M)
    for entry in filter(None, text.decode().split("\0")):
        head, parents, author, subject, body = entry.split("\n", 4)
        rest, patches = trailer.sub("", body).strip("\n"), tuple(trailer.findall(body))
        commits.append(_Commit(head, tuple(parents.split()), author, subject, rest, patches))
    oldest = max((n for n, commit in enumerate(commits) if commit.patches), default=None)
    if oldest is None or not commits[oldest].parents:
        raise UsageError(
            f"none of the last {_DEPTH} commits of {repository} has a trailer {TRAILER}",
            hint=f"is it the right tree? {make_one}",
        )
    return commits[oldest].parents[0], commits[oldest::-1]


def _match(commits: list[_Commit], series: Series) -> list[tuple[Carried, _Commit]]:
    known = {patch.name: patch for patch in series.patches}
    matched: dict[str, _Commit] = {}
    for commit in commits:
        if len(commit.parents) != 1:
            raise UsageError(f"commit {commit} is a merge", hint="make the history linear")
        if len(commit.patches) != 1:
            raise UsageError(
                f"commit {commit} has {len(commit.patches)} trailers {TRAILER}",
                hint="squash it into the commit of the patch that it belongs to (git rebase -i), "
                f"or end its message with {TRAILER}: NAME",
            )
        (name,) = commit.patches
        if name not in known:
            raise UsageError(
                f"commit {commit} is for a patch {name}, which is not in series.toml",
                hint=f"add it to {series.directory / 'series.toml'}, or correct the name",
                details=[f"known: {', '.join(known)}"],
            )
        if name in matched:
            raise UsageError(
                f"commits {matched[name]} and {commit} are both for the patch {name}",
                hint="make them one (git rebase -i)",
            )
        matched[name] = commit
    absent = [patch.name for patch in series.wanted() if patch.name not in matched]
    if absent:
        raise UsageError(
            f"no commit for the patch {', '.join(absent)}",
            hint="bring it back, or take it out of series.toml and remove its files",
        )
    order = [name for name in known if name in matched]
    if list(matched) != order:
        raise UsageError(
            f"the commits are in the order {', '.join(matched)}",
            hint=f"series.toml has {', '.join(order)}: change one of the two",
        )
    return [(known[name], commit) for name, commit in matched.items()]


def _blob(repository: Path, commit: _Commit, path: str) -> tuple[str, bytes]:
    mode = git_output(repository, "ls-tree", commit.id, "--", path).decode().split()[0]
    if mode not in (FILE, PROGRAM):
        raise UsageError(
            f"commit {commit} adds {path}, which is no regular file (mode {mode})",
            hint="sources are copied into the tree: add a file",
        )
    return mode, git_output(repository, "cat-file", "blob", f"{commit.id}:{path}")


def _put(path: Path, content: tuple[str, bytes] | None) -> bool:
    """Make the file hold that, or be gone; whether it was otherwise."""
    if content is None:
        path.unlink()
    elif path.is_file() and read_file(path) == content:
        return False
    else:
        put_file(path, *content)
    return True
