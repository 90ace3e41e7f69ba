# SPDX-License-Identifier: MIT
"""git, run so that it neither writes to a user's repository nor depends on a user's settings."""

import os
import subprocess
from pathlib import Path

from harness.base.status import HostError


def environment(**extra: str) -> dict[str, str]:
    """The environment for git: English, no optional index writes, no inherited repository."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    return kept | {"LC_ALL": "C", "GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0"} | extra


def git(directory: Path, *argv: str, **extra: str) -> subprocess.CompletedProcess[bytes]:
    """Run `git -C directory argv...`; the caller looks at the return code."""
    try:
        return subprocess.run(
            ["git", "-C", str(directory), *argv],
            env=environment(**extra),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
        )
    except FileNotFoundError as error:
        raise HostError("git is not installed", hint="apt-get install git") from error


def git_output(directory: Path, *argv: str) -> bytes:
    """What `git -C directory argv...` prints. Raises HostError where it fails."""
    result = git(directory, *argv)
    if result.returncode:
        raise HostError(
            f"git {argv[0]} failed in {directory}",
            hint="look at git's message below",
            details=complaint(result),
        )
    return result.stdout


def complaint(result: subprocess.CompletedProcess[bytes]) -> list[str]:
    return result.stderr.decode(errors="replace").splitlines()
