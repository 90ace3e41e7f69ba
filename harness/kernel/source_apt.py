# SPDX-License-Identifier: MIT
"""Source packages through apt: of each, the upstream tarball, checked against the signed lists."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from harness.base.status import HostError
from harness.kernel.apt import Apt, Candidate, only_file


class SourceApt(Apt):
    """The source packages of the same archives; of each, the upstream tarball."""

    kind = "deb-src"

    def sha256(self, candidate: Candidate) -> str:
        """The SHA-256 that the signed lists give for the upstream tarball."""
        text = self._query("showsrc", "--only-source", candidate.package)
        wanted = re.compile(rf"^Version: {re.escape(candidate.version)}$", re.M)
        for block in filter(wanted.search, text.split("\n\n")):
            if match := re.search(r"^ ([0-9a-f]{64}) \d+ \S+\.orig\.tar\.\w+$", block, re.M):
                return match[1]
        raise HostError(f"the package lists have no SHA256 for the source of {candidate.package}")

    def download(self, candidate: Candidate, into: Path, percent: Callable[[int], None]) -> Path:
        """Download the upstream tarball; apt checks it against the signed lists."""
        request = f"{candidate.package}={candidate.version}"
        options = ("--download-only", "--tar-only", "--only-source")
        complaints = self._run("source", *options, request, cwd=into, percent=percent)
        return only_file(candidate, into.glob("*.orig.tar.*"), complaints)
