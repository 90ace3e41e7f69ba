# SPDX-License-Identifier: MIT
"""Patches: which ones a version needs, whether a tree has them, and what they make of its files.

They are applied to copies of the files they touch, so that a patch that does not fit is found out
before anything is copied or built, and the user's tree is not touched.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
import tomllib
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.base.status import UsageError
from harness.base.store import digest_file, digest_of
from harness.kernel.fragment import DIRECTORY
from harness.kernel.gitcmd import complaint, environment, git
from harness.kernel.tree import LINK, SourceTree, link_target
from harness.kernel.version import Version, VersionRange
from harness.kernel.worktree import Overlay

SERIES = DIRECTORY / "patches" / "series.toml"

_TOUCHED = re.compile(
    rb'^(?:--- |\+\+\+ |rename (?:from|to) |copy (?:from|to) |diff --git a/\S+ )"?(\S[^\t\n"]*)',
    re.M,
)
_FAILED = re.compile(r"error: patch failed: (?P<file>.+):(?P<line>\d+)")
_ABSENT = re.compile(r"error: (?P<file>.+): (?P<why>No such file or directory|already exists .*)")
_REJECTED = re.compile(r"Rejected hunk #(\d+)")


@dataclass(frozen=True)
class Carried:
    """One patch of the project's own series."""

    file: Path
    name: str
    versions: VersionRange
    summary: str
    fragment: str = ""
    """Applied only if this configuration fragment is asked for; empty: always."""


def parse_series(text: str, origin: Path) -> list[Carried]:
    """The patches that a series.toml lists. Raises UsageError."""
    try:
        tables = tomllib.loads(text).get("patch", [])
        if not isinstance(tables, list):
            raise TypeError("patch is not a list of tables")
        return [_carried(table, origin.parent) for table in tables]
    except (tomllib.TOMLDecodeError, TypeError, KeyError, AttributeError) as error:
        reason = f"missing {error}" if isinstance(error, KeyError) else str(error)
        raise UsageError(
            f"{origin}: {reason}",
            hint='each [[patch]] has file, name, summary and optionally since = "6.12", before, '
            "fragment",
        ) from error


def _carried(table: dict[str, object], directory: Path) -> Carried:
    for key, value in table.items():
        if not isinstance(value, str):
            raise TypeError(f"{key} is not a string")
    ends = {key: Version.parse(str(table[key])) for key in ("since", "before") if key in table}
    return Carried(
        directory / str(table["file"]),
        str(table["name"]),
        VersionRange(ends.get("since"), ends.get("before")),
        str(table.get("summary", "")),
        str(table.get("fragment", "")),
    )


def select(
    series: Sequence[Carried], version: Version, fragments: Collection[str] = ()
) -> list[Carried]:
    """The patches for `version`, in order: one of every name. Raises UsageError if there is none.

    A name that has no patch for `version` would leave the kernel without that part of what the
    harness needs, so that is an error and not a shorter list. Patches that belong to a fragment
    count only if it is one of `fragments`.
    """
    series = [patch for patch in series if not patch.fragment or patch.fragment in fragments]
    chosen = [patch for patch in series if version in patch.versions]
    lacking = [patch for patch in series if patch.name not in {x.name for x in chosen}]
    if lacking or not series:
        ranges = [f"{patch.name}: {patch.versions} ({patch.file.name})" for patch in series]
        names = ", ".join(dict.fromkeys(patch.name for patch in lacking)) or "any part"
        raise UsageError(
            f"no carried patch of {names} for kernel {version}",
            hint="use a kernel in these ranges, or carried=False for a target that needs no patch",
            details=ranges or [f"{SERIES} lists no patches"],
        )
    return chosen


def carried_patches(
    version: Version, fragments: Collection[str] = (), series: Path = SERIES
) -> list[Path]:
    """The files of the project's own patches for `version`, with those of `fragments`."""
    return [patch.file for patch in select(_read_series(series), version, fragments)]


def fragments_with_patches(series: Path = SERIES) -> frozenset[str]:
    """The fragments that bring a patch of their own."""
    return frozenset(patch.fragment for patch in _read_series(series)) - {""}


def _read_series(series: Path) -> list[Carried]:
    return parse_series(series.read_text() if series.exists() else "", series)


def patches_digest(patches: Iterable[Path]) -> str:
    """Identity of the patches, by content and order. UsageError if one cannot be read."""
    digests = []
    for patch in patches:
        try:
            digests.append(digest_file(patch))
        except OSError as error:
            raise UsageError(
                f"cannot read the patch {patch}: {error.strerror}", hint="check the path"
            ) from error
    return digest_of(*digests)


@dataclass(frozen=True)
class Applied:
    """What became of the patches."""

    overlay: Overlay
    present: tuple[str, ...]
    """Names of patches that the tree had already."""


def apply_patches(tree: SourceTree, patches: Sequence[Path], scratch: Path) -> Applied:
    """What `patches` make of `tree`'s files, worked out in a new directory under `scratch`.

    A patch that the tree already has is taken off first, last one first, and put on again in its
    turn: so it is recognised even where a later one changed the same lines.
    """
    if not patches:
        return Applied({}, ())
    scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=scratch, prefix="patch-") as directory:
        stage = _Stage(Path(directory))
        mails = [mail for patch in patches for mail in stage.split(patch)]
        touched = {path for _, file in mails for path in touched_files(file.read_bytes())}
        stage.fill(tree, touched & tree.manifest.keys())
        present = [name for name, file in reversed(mails) if stage.apply(file, "--reverse")]
        for name, file in mails:
            if not stage.apply(file):
                raise stage.refusal(name, file, tree.version)
        return Applied(stage.result(touched), tuple(reversed(present)))


def touched_files(patch: bytes) -> set[str]:
    """Every path that a patch may read or write (a few too many does no harm)."""
    paths = {os.fsdecode(found.strip()) for found in _TOUCHED.findall(patch)}
    return {path[2:] if path[:2] in ("a/", "b/") else path for path in paths} - {"/dev/null"}


class _Stage:
    """A directory with the touched files, outside any repository, for git apply."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.files = root / "files"
        self.files.mkdir()
        self._mails = 0

    def split(self, patch: Path) -> list[tuple[str, Path]]:
        """The single patches in a file: those of the mails of an mbox, or the file itself."""
        if not patch.read_bytes().startswith(b"From "):
            return [(patch.name, patch.resolve())]
        self._mails += 1
        directory = self.root / f"mbox-{self._mails}"
        directory.mkdir()
        result = git(directory, "mailsplit", f"-o{directory}", "--", str(patch.resolve()))
        if result.returncode:
            raise UsageError(f"{patch} is not a mailbox", details=complaint(result))
        mails = sorted(directory.iterdir())
        found = []
        for mail in mails:
            # mailinfo undoes quoted-printable and base64, which git apply would not.
            diff = directory / f"{mail.name}.diff"
            with mail.open("rb") as source:
                self._mailinfo(directory, source.read(), diff)
            name = patch.name if len(mails) == 1 else f"{patch.name} ({int(mail.name)})"
            if touched_files(diff.read_bytes()):  # a cover letter has no diff
                found.append((name, diff))
        return found

    @staticmethod
    def _mailinfo(directory: Path, mail: bytes, diff: Path) -> None:
        subprocess.run(
            ["git", "mailinfo", "-k", "--encoding=UTF-8", str(directory / "message"), str(diff)],
            input=mail,
            cwd=directory,
            env=environment(),
            stdout=subprocess.DEVNULL,
            check=True,
        )

    def fill(self, tree: SourceTree, paths: Iterable[str]) -> None:
        for path, data in tree.reader.read(sorted(paths)):
            target = self.files / path
            target.parent.mkdir(parents=True, exist_ok=True)
            mode = tree.manifest[path].split()[0]
            if mode == LINK:
                target.symlink_to(os.fsdecode(data))
            else:
                target.write_bytes(data)
                target.chmod(0o755 if mode == "100755" else 0o644)

    def _git_apply(self, file: Path, *options: str) -> tuple[int, list[str]]:
        # The ceiling keeps git from finding a repository above, whose index it would then ask.
        ceiling = str(self.files.parent.resolve())
        result = git(
            self.files, "apply", *options, "--", str(file), GIT_CEILING_DIRECTORIES=ceiling
        )
        return result.returncode, complaint(result)

    def apply(self, file: Path, *options: str) -> bool:
        """Apply if --check says that all of it fits; whether it did."""
        if self._git_apply(file, "--check", *options)[0]:
            return False
        return self._git_apply(file, "--whitespace=nowarn", *options)[0] == 0

    def refusal(self, name: str, file: Path, version: Version) -> UsageError:
        """Why `file` does not fit: which hunks of which files."""
        code, lines = self._git_apply(file, "--check")
        broken = next((x for x in lines if "corrupt" in x or "No valid patches" in x), "")
        if broken:
            return UsageError(
                f"{name} is not a usable patch: {broken.removeprefix('error: ')}",
                hint="give files as git format-patch writes them",
            )
        failed = [_FAILED.match(text) or _ABSENT.match(text) for text in lines]
        first = next((match for match in failed if match), None)
        copy = self.root / "reject"
        shutil.copytree(self.files, copy, symlinks=True)
        rejecting = _Stage.__new__(_Stage)
        rejecting.root, rejecting.files = self.root, copy
        _, verbose = rejecting._git_apply(file, "--reject", "--verbose")
        hunks = ", ".join(match[1] for text in verbose if (match := _REJECTED.match(text)))
        where = f" in {first['file']}" if first else ""
        if first and "line" in first.re.groupindex:
            where += f" at line {first['line']}"
        return UsageError(
            f"{name} does not apply to kernel {version}: "
            + (f"hunk {hunks} failed{where}" if hunks else f"failed{where}"),
            hint="rebase the patch onto this tree, or choose the version it was made for",
            details=lines or [f"git apply: exit code {code}"],
        )

    def result(self, touched: Iterable[str]) -> dict[str, tuple[str, bytes] | None]:
        """What the touched files are now."""
        overlay: dict[str, tuple[str, bytes] | None] = {}
        for path in touched:
            file = self.files / path
            if file.is_symlink():
                overlay[path] = LINK, link_target(file)
            elif file.is_file():
                executable = file.stat().st_mode & 0o100
                overlay[path] = "100755" if executable else "100644", file.read_bytes()
            else:
                overlay[path] = None
        return overlay
