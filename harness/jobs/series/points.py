# SPDX-License-Identifier: MIT
"""The points of a series: its base, then one after each commit or patch."""

from dataclasses import dataclass, replace
from pathlib import Path

from harness.base.spec import GuestSpec, TargetName
from harness.base.status import PreconditionError, UsageError
from harness.jobs.bisect.git import subject
from harness.jobs.lab import BuildJob
from harness.jobs.patchsets import commits_of, gather, resolve_commit
from harness.kernel.gitcmd import complaint, git
from harness.kernel.patches import touched_files


@dataclass(frozen=True)
class SeriesPoint:
    name: str
    """Unique; names directories."""
    title: str
    """As people know it: short id and subject, or the patch's file."""
    job: BuildJob
    touched: tuple[str, ...] = ()
    """Files that the commit or patch changes; empty for the base."""


def points_of(
    series: str,
    base: str | None,
    directory: Path,
    fragments: tuple[str, ...] = (),
    settings: tuple[str, ...] = (),
    target: TargetName = GuestSpec.target,
) -> list[SeriesPoint]:
    """The points of `series`, the base first.

    A range "git:REPOSITORY@A..B" has its own base, A; patches (a file, a mailbox, a directory) need
    one, any kernel source. Raises UsageError; PreconditionError for a series without a patch.
    """
    common = BuildJob("", (), fragments, settings, target)
    if series.startswith("git:"):
        if base is not None:
            raise UsageError("a git range has its own base", hint="leave out --base")
        return _of_range(series, common)
    if base is None:
        raise UsageError("patches need a base", hint="give --base debian:6.12, or a tree")
    return _of_patches(series, replace(common, source=base), directory)


def _of_range(series: str, common: BuildJob) -> list[SeriesPoint]:
    repository, commits = commits_of(series)
    if not commits:
        raise PreconditionError(f"the series {series} is empty: it has no commit")
    base = resolve_commit(repository, f"{commits[0]}^")
    found = []
    for commit in (base, *commits):
        job = replace(common, source=f"git:{repository.resolve()}@{commit}")
        touched = _changed(repository, commit) if commit != base else ()
        found.append(SeriesPoint(commit[:12], subject(repository, commit), job, touched))
    return found


def _changed(repository: Path, commit: str) -> tuple[str, ...]:
    listed = git(
        repository, "diff-tree", "--no-commit-id", "--name-only", "--no-renames", "-r", "-z", commit
    )
    return tuple(listed.stdout.decode(errors="surrogateescape").split("\0")[:-1])


def _of_patches(series: str, base: BuildJob, directory: Path) -> list[SeriesPoint]:
    patches: list[Path] = []
    for number, file in enumerate(gather([series], directory / "series")):
        patches += _mails(file, directory / "mails" / str(number))
    if not patches:
        raise PreconditionError(f"the series {series} is empty: it has no patch")
    found = [SeriesPoint("base", base.source, base)]
    for number, patch in enumerate(patches, 1):
        job = replace(base, patches=tuple(patches[:number]))
        touched = tuple(sorted(touched_files(patch.read_bytes())))
        found.append(SeriesPoint(f"patch-{number:02}", _title(patch), job, touched))
    return found


def _mails(file: Path, directory: Path) -> list[Path]:
    """The single patches of a mailbox, in order; a cover letter is none."""
    if not file.read_bytes().startswith(b"From "):
        return [file]
    directory.mkdir(parents=True, exist_ok=True)
    split = git(directory, "mailsplit", f"-o{directory.resolve()}", "--", str(file.resolve()))
    if split.returncode:
        raise UsageError(f"{file.name} is not a mailbox", details=complaint(split))
    mails = sorted(path for path in directory.iterdir() if path.name.isdecimal())
    return [mail.resolve() for mail in mails if touched_files(mail.read_bytes())]


def _title(patch: Path) -> str:
    for line in patch.read_text(errors="replace").splitlines():
        if line.startswith("Subject: "):
            return line.removeprefix("Subject: ").strip()
    return patch.name
