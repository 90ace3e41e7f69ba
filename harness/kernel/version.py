# SPDX-License-Identifier: MIT
"""Versions of kernels, as the top Makefile states them, and of QEMU."""

from __future__ import annotations

import re
from dataclasses import dataclass

from harness.base.reader import FileType
from harness.base.status import UsageError

_VERSION = re.compile(r"(\d{1,4})\.(\d{1,4})(?:\.(\d{1,4}))?")
_ASSIGNMENT = re.compile(r"^(VERSION|PATCHLEVEL|SUBLEVEL)[ \t]*=[ \t]*(\d{1,4})[ \t]*$", re.M)


@dataclass(frozen=True, order=True)
class Version:
    """major.minor.patch; a release candidate counts as the release it is a candidate for."""

    major: int
    minor: int
    patch: int = 0

    @classmethod
    def parse(cls, text: str) -> Version:
        """The version `text` is: "6.12" or "6.12.117". Raises UsageError."""
        match = _VERSION.fullmatch(text)
        if not match:
            raise UsageError(f"not a version: {text!r}", hint="write it like 6.12 or 6.12.117")
        return cls(int(match[1]), int(match[2]), int(match[3] or 0))

    @property
    def series(self) -> str:
        """The series it belongs to: "6.12"."""
        return f"{self.major}.{self.minor}"

    def __str__(self) -> str:
        return f"{self.series}.{self.patch}"


def makefile_version(text: str) -> Version | None:
    """The version in the text of a kernel's top Makefile; None if it is not one."""
    found = {name: int(value) for name, value in _ASSIGNMENT.findall(text)}
    if not {"VERSION", "PATCHLEVEL"} <= found.keys():
        return None
    return Version(found["VERSION"], found["PATCHLEVEL"], found.get("SUBLEVEL", 0))


@dataclass(frozen=True)
class VersionRange:
    """`since` belongs to the range, `before` does not; None leaves that end open."""

    since: Version | None = None
    before: Version | None = None

    @classmethod
    def parse(cls, since: str | None, before: str | None) -> VersionRange:
        """From the ends' texts. Raises UsageError."""
        ends = (Version.parse(end) if end else None for end in (since, before))
        return cls(*ends)

    def __contains__(self, version: Version) -> bool:
        return (self.since is None or self.since <= version) and (
            self.before is None or version < self.before
        )

    def __str__(self) -> str:
        ends = [f"since {self.since}" if self.since else "", f"before {self.before}"]
        return " ".join(e for e in (ends if self.before else ends[:1]) if e) or "all"


class Ranged(FileType, frozen=True, kw_only=True):
    """A table of a file with the kernel versions that it is about."""

    since: str = ""
    """The first version; empty: all that are older, too."""
    before: str = ""
    """The first version that it is not about any more; empty: all that are newer, too."""

    def __post_init__(self) -> None:
        _ = self.versions

    @property
    def versions(self) -> VersionRange:
        return VersionRange.parse(self.since, self.before)
