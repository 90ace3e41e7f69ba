# SPDX-License-Identifier: MIT
"""A patch series in any of its forms, as files of our own: a mailbox, a directory, a git range."""

import shutil
from collections.abc import Iterable
from pathlib import Path

from harness.base.status import PreconditionError, UsageError
from harness.kernel.gitcmd import complaint, git
from harness.kernel.source import GitSource, parse_source

_PATCH_NAMES = ("*.patch", "*.diff", "*.mbox", "*.eml")


def gather(texts: Iterable[str], directory: Path) -> tuple[Path, ...]:
    """Copies of the patches that `texts` name, under `directory`, in order. Raises UsageError for
    what is not there, PreconditionError for a series without a patch."""
    found: list[Path] = []
    for number, text in enumerate(texts):
        target = directory / f"{number:02}"
        target.mkdir(parents=True, exist_ok=True)
        made = _from_git(text, target) if text.startswith("git:") else _from_files(text, target)
        if not made:
            raise PreconditionError(f"the series {text} is empty: it has no patch")
        found += made
    return tuple(path.resolve() for path in found)


def _from_files(text: str, target: Path) -> list[Path]:
    origin = Path(text).expanduser()
    if origin.is_dir():
        files = _in_directory(origin)
    elif origin.is_file():
        files = [origin] if origin.stat().st_size else []
    else:
        raise UsageError(f"there is no patch {text}", hint="give a file, a directory or git:…@A..B")
    return [Path(shutil.copyfile(file, target / file.name)) for file in files]


def _in_directory(origin: Path) -> list[Path]:
    series = origin / "series"
    if series.is_file():  # quilt's order
        lines = (line.partition("#")[0].split() for line in series.read_text().splitlines())
        names = [words[0] for words in lines if words]
        if outside := [name for name in names if "/" in name or not (origin / name).is_file()]:
            raise UsageError(f"{series} lists {outside[0]}, which is not a file beside it")
        return [origin / name for name in names]
    return sorted(file for pattern in _PATCH_NAMES for file in origin.glob(pattern))


def _from_git(text: str, target: Path) -> list[Path]:
    repository, commits = commits_of(text)
    if not commits:
        return []
    source = parse_source(text)
    assert isinstance(source, GitSource)
    made = git(
        repository, "format-patch", "--quiet", "--no-signature", f"-o{target.resolve()}", source.ref
    )
    if made.returncode:
        raise UsageError(f"git format-patch failed for {text}", details=complaint(made))
    return sorted(target.glob("*.patch"))


def commits_of(text: str) -> tuple[Path, list[str]]:
    """The repository and the commits, first to last, of "git:REPOSITORY@A..B".

    Raises UsageError for no such range, for merges (a patch cannot say what they do), and for a
    shallow clone that lacks an end of it.
    """
    source = parse_source(text)
    ends = source.ref.split("..") if isinstance(source, GitSource) else []
    if not isinstance(source, GitSource) or len(ends) != 2 or not all(ends) or ends[1][0] == ".":
        raise UsageError(f"not a range of commits: {text}", hint="write git:/path/to/repo@A..B")
    for end in ends:
        resolve_commit(source.repository, end)
    listed = git(source.repository, "rev-list", "--reverse", "--topo-order", source.ref, "--")
    if listed.returncode:
        raise UsageError(f"git cannot list {text}", details=complaint(listed))
    merges = git(source.repository, "rev-list", "--merges", "--max-count=1", source.ref, "--")
    if merges.stdout.strip():
        raise UsageError(
            f"{text} has the merge {merges.stdout.decode()[:12]}: a series must be linear",
            hint="rebase it, or name a range without merges",
        )
    return source.repository, listed.stdout.decode().split()


def resolve_commit(repository: Path, ref: str) -> str:
    """The full id of the commit `ref`. Raises UsageError, saying so if the clone is shallow."""
    found = git(repository, "rev-parse", "--verify", "--quiet", f"{ref}^{{commit}}")
    if found.returncode == 0 and not ref.startswith("-"):
        return found.stdout.decode().strip()
    if git(repository, "rev-parse", "--git-dir").returncode:
        raise UsageError(f"{repository} is not a git repository")
    shallow = git(repository, "rev-parse", "--is-shallow-repository").stdout.strip() == b"true"
    raise UsageError(
        f"no commit {ref!r} in {repository}" + (", which is a shallow clone" if shallow else ""),
        hint=f"git -C {repository} fetch --unshallow" if shallow else "see git branch and git tag",
    )


def check_clean(tree: Path) -> None:
    """Raise PreconditionError if `tree` is a git work tree with changes that are not committed."""
    status = git(tree, "status", "--porcelain", "--untracked-files=no", "--", ".")
    changed = status.stdout.decode(errors="replace").splitlines()
    if status.returncode == 0 and changed:
        raise PreconditionError(
            f"{tree} has {len(changed)} changed files that are not committed: nobody could repeat "
            "what is found",
            hint="commit them, or say dirty = true for this kernel",
            details=changed[:10],
        )
