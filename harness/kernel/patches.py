# SPDX-License-Identifier: MIT
"""Patches: whether a tree has them, and what they make of copies of the files that they touch."""

import os
import re
import subprocess
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.base.status import UsageError
from harness.kernel.gitcmd import complaint, environment, git
from harness.kernel.make import host_fault
from harness.kernel.series import Patch
from harness.kernel.tree import SourceTree, put_file, read_file
from harness.kernel.worktree import Overlay

_TOUCHED = re.compile(
    rb'^(?:--- |\+\+\+ |rename (?:from|to) |copy (?:from|to) |diff --git a/\S+ )"?(\S[^\t\n"]*)',
    re.M,
)
_FAILED = re.compile(r"error: patch failed: (?P<file>.+):(?P<line>\d+)")
_ABSENT = re.compile(r"error: (?P<file>.+): (?P<why>No such file or directory|already exists .*)")
_REJECTED = re.compile(r"Rejected hunk #(\d+)")


@dataclass(frozen=True)
class Applied:
    overlay: Overlay
    present: tuple[str, ...]
    """Names of patches that the tree had already."""


def apply_patches(tree: SourceTree, patches: Sequence[Patch], scratch: Path) -> Applied:
    """What `patches` make of `tree`'s files, worked out in a new directory under `scratch`.

    A patch that the tree already has is taken off first, last one first, and put on again in its
    turn: so it is recognised even where a later one changed the same lines. Raises UsageError for
    one that does not apply, or that the tree has with other sources than would be copied.
    """
    if not patches:
        return Applied({}, ())
    scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=scratch, prefix="patch-") as directory:
        stage = _Stage(Path(directory).resolve(), tree)
        steps = [step for patch in patches for step in stage.split(patch)]
        touched = {path for step in steps for path in step.touched}
        stage.fill(touched & tree.manifest.keys())
        present = [step.name for step in reversed(steps) if stage.take_off(step)]
        for step in steps:
            stage.put_on(step)
        return Applied(stage.result(touched), tuple(reversed(present)))


def touched_files(patch: bytes) -> set[str]:
    """Every path that a patch may read or write (a few too many does no harm)."""
    paths = {os.fsdecode(found.strip()) for found in _TOUCHED.findall(patch)}
    return {path[2:] if path[:2] in ("a/", "b/") else path for path in paths} - {"/dev/null"}


@dataclass(frozen=True)
class _Step:
    """A single diff, and the files to be copied before it is applied: path -> (mode, content)."""

    name: str
    diff: Path
    sources: Mapping[str, tuple[str, bytes]]

    @property
    def touched(self) -> set[str]:
        return touched_files(self.diff.read_bytes()) | self.sources.keys()


class _Stage:
    """A directory with the touched files, outside any repository, for git apply."""

    def __init__(self, root: Path, tree: SourceTree) -> None:
        self.root = root
        self.tree = tree
        self.target = f"{tree.product} {tree.version}"
        self.files = root / "files"
        self.files.mkdir()
        self._mails = 0

    def split(self, patch: Patch) -> list[_Step]:
        """The single diffs in a patch's file: those of the mails of an mbox, or the file itself."""
        sources = {path: read_file(file) for path, file in patch.source_files()}
        file = patch.file
        if not file.read_bytes().startswith(b"From "):
            return [_Step(file.name, file.resolve(), sources)]
        self._mails += 1
        directory = self.root / f"mbox-{self._mails}"
        directory.mkdir()
        result = git(directory, "mailsplit", f"-o{directory}", "--", str(file.resolve()))
        if result.returncode:
            raise UsageError(f"{file} is not a mailbox", details=complaint(result))
        mails = sorted(directory.iterdir())
        found: list[_Step] = []
        for mail in mails:
            # mailinfo undoes quoted-printable and base64, which git apply would not.
            diff = directory / f"{mail.name}.diff"
            argv = ["git", "mailinfo", "-k", "--encoding=UTF-8", "message", str(diff)]
            subprocess.run(
                argv,
                input=mail.read_bytes(),
                cwd=directory,
                env=environment(),
                stdout=subprocess.DEVNULL,
                check=True,
            )
            name = file.name if len(mails) == 1 else f"{file.name} ({int(mail.name)})"
            if touched_files(diff.read_bytes()):  # a cover letter has no diff
                found.append(_Step(name, diff, {} if found else sources))
        return found

    def fill(self, paths: Iterable[str]) -> None:
        for path, data in self.tree.read(sorted(paths)):
            put_file(self.files / path, self.tree.manifest[path].split()[0], data)

    def take_off(self, step: _Step) -> bool:
        """Undo the step; False, and nothing is changed, if the files do not have it."""
        held = all((self.files / path).is_file() for path in step.sources)
        if not held or not self._apply(step.diff, "--reverse"):
            return False
        for path, expected in step.sources.items():
            if read_file(self.files / path) != expected:
                raise UsageError(
                    f"{step.name} is in {self.target} already, but with another {path} than the "
                    "one that is carried",
                    hint=f"cvm-harness {self.tree.product.lower()} refresh carries the tree's; or "
                    "take the patch out of the tree",
                )
            (self.files / path).unlink()
        return True

    def put_on(self, step: _Step) -> None:
        """Copy the sources and apply the diff. Raises UsageError if not all of it fits."""
        for path, source in step.sources.items():
            if (self.files / path).exists():
                raise UsageError(
                    f"{step.name} does not apply to {self.target}: {path} already exists",
                    hint="take the file out of the tree, or choose another tree",
                )
            put_file(self.files / path, *source)
        if not self._apply(step.diff):
            raise self._refusal(step.name, step.diff)

    def _git_apply(self, file: Path, *options: str) -> tuple[int, list[str]]:
        # The ceiling keeps git from finding a repository above, whose index it would then ask.
        argv = ("apply", *options, "--", str(file))
        result = git(self.files, *argv, GIT_CEILING_DIRECTORIES=str(self.root))
        return result.returncode, complaint(result)

    def _apply(self, file: Path, *options: str) -> bool:
        """Apply all of it or, if not all fits, nothing; whether it did."""
        code, lines = self._git_apply(file, "--whitespace=nowarn", *options)
        if code and (fault := host_fault(lines, f"applying {file.name}")):
            raise fault
        return not code

    def _refusal(self, name: str, file: Path) -> UsageError:
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
        _, verbose = self._git_apply(file, "--reject", "--verbose")
        hunks = ", ".join(match[1] for text in verbose if (match := _REJECTED.match(text)))
        where = f" in {first['file']}" if first else ""
        if first and "line" in first.re.groupindex:
            where += f" at line {first['line']}"
        return UsageError(
            f"{name} does not apply to {self.target}: "
            + (f"hunk {hunks} failed{where}" if hunks else f"failed{where}"),
            hint="rebase the patch onto this tree, or choose the version it was made for",
            details=lines or [f"git apply: exit code {code}"],
        )

    def result(self, touched: Iterable[str]) -> dict[str, tuple[str, bytes] | None]:
        overlay: dict[str, tuple[str, bytes] | None] = {}
        for path in touched:
            file = self.files / path
            overlay[path] = read_file(file) if file.is_symlink() or file.is_file() else None
        return overlay
