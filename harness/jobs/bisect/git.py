# SPDX-License-Identifier: MIT
"""git bisect, in a repository of our own that borrows the user's objects: nothing is checked out,
and no ref, index or file of the user's is touched."""

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from harness.base.status import HostError, UsageError
from harness.jobs.patchsets import resolve_commit
from harness.kernel.gitcmd import complaint, git

_FIRST_BAD = re.compile(r"^([0-9a-f]{40}) is the first bad commit", re.MULTILINE)
_COULD_BE = re.compile(r"^[0-9a-f]{40}$", re.MULTILINE)


@dataclass(frozen=True)
class BisectState:
    """Where a bisection stands: `next` to be judged, or the candidates that are left."""

    next: str | None
    candidates: tuple[str, ...] = ()
    """One: the first bad commit. More: it is one of these, the others cannot be judged."""


class Bisection:
    """One run of git bisect between two commits."""

    def __init__(self, repository: Path, scratch: Path, good: str, bad: str) -> None:
        """Begin anew. Raises UsageError where `good` is no ancestor of `bad`."""
        self.repository = repository
        self.good = resolve_commit(repository, good)
        self.bad = resolve_commit(repository, bad)
        self._git_dir = scratch
        if self.good == self.bad:
            raise UsageError("the good and the bad commit are the same")
        if git(repository, "merge-base", "--is-ancestor", self.good, self.bad).returncode:
            raise UsageError(
                f"the good commit {good} is not an ancestor of the bad commit {bad}",
                hint="bisecting finds what made a good kernel bad, in this direction only",
            )
        self._borrow()
        self.state = self._told(git(scratch, "bisect", "start", self.bad, self.good))

    def _borrow(self) -> None:
        shutil.rmtree(self._git_dir, ignore_errors=True)
        self._git_dir.mkdir(parents=True)
        made = git(self._git_dir, "init", "--quiet", "--bare", ".")
        if made.returncode:
            raise HostError("git init failed", details=complaint(made))
        common = git(self.repository, "rev-parse", "--path-format=absolute", "--git-common-dir")
        origin = Path(common.stdout.decode().strip())
        (self._git_dir / "objects/info/alternates").write_text(f"{origin / 'objects'}\n")
        if (origin / "shallow").exists():
            shutil.copyfile(origin / "shallow", self._git_dir / "shallow")
        git(self._git_dir, "update-ref", "HEAD", self.bad)  # bisect wants a branch to be on

    @property
    def commits(self) -> int:
        """How many commits may be the first bad one."""
        counted = git(self.repository, "rev-list", "--count", f"{self.good}..{self.bad}")
        return int(counted.stdout)

    def answer(self, commit: str, word: str) -> None:
        self.state = self._told(git(self._git_dir, "bisect", word, commit))

    def _told(self, result: subprocess.CompletedProcess[bytes]) -> BisectState:
        stdout = result.stdout.decode(errors="replace")
        if first := _FIRST_BAD.search(stdout):
            return BisectState(None, (first[1],))
        if "only 'skip'ped commits left" in stdout:
            return BisectState(None, tuple(_COULD_BE.findall(stdout)))
        head = git(self._git_dir, "rev-parse", "--verify", "--quiet", "BISECT_HEAD")
        if head.returncode:
            raise HostError(
                "git bisect gave no commit to test",
                details=[*stdout.splitlines(), *complaint(result)],
            )
        return BisectState(head.stdout.decode().strip())

    def parent(self, commit: str) -> str:
        return git(self.repository, "rev-parse", f"{commit}^").stdout.decode().strip()


def subject(repository: Path, commit: str) -> str:
    """`commit` as people know it: short id and subject."""
    told = git(repository, "log", "-1", "--format=%h %s", commit).stdout
    return told.decode(errors="replace").strip()
