# SPDX-License-Identifier: MIT
"""Where the files are that the package carries: beside it in a checkout, inside it in a wheel."""

from pathlib import Path

from harness.base.status import UsageError

_PACKAGE = Path(__file__).parents[1]
_IN_WHEEL = _PACKAGE / "carried"
"""Where pyproject.toml puts the top-level directories in a wheel."""


def carried(directory: str) -> Path:
    """The top-level directory `kernel-configs` or `guest-images`."""
    return (_IN_WHEEL if _IN_WHEEL.is_dir() else _PACKAGE.parent) / directory


def checkout() -> Path:
    """The source tree, which has the tests. Raises UsageError in an installed package."""
    if _IN_WHEEL.is_dir():
        raise UsageError(
            "the acceptance suite is in the source tree, and this is an installed package",
            hint="clone the project and run the command there",
        )
    return _PACKAGE.parent
