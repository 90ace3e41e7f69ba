# SPDX-License-Identifier: MIT
"""The QEMU binary: where it is, which version, which object types it has."""

import functools
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from harness.base.guarded import ask
from harness.base.status import HostError

_PROBE_DEADLINE_S = 20
PLATFORMS = {"tdx": "tdx-tcg-guest", "snp": "snp-tcg-guest"}
"""Target -> the object type that is its platform under TCG."""


@dataclass(frozen=True)
class Qemu:
    """One QEMU binary."""

    binary: Path
    version: str
    """As QEMU prints it, distribution suffix included: "7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)"."""

    @property
    def number(self) -> tuple[int, ...]:
        """The version for comparisons: (7, 2, 22)."""
        return parse_version(self.version)


def parse_version(text: str) -> tuple[int, ...]:
    """The leading dotted number of `text`; empty if there is none."""
    match = re.match(r"\d+(?:\.\d+)*", text)
    return tuple(int(part) for part in match[0].split(".")) if match else ()


def find_qemu() -> Qemu:
    """$CVM_HARNESS_QEMU, or qemu-system-x86_64 on PATH. Raises HostError if there is none."""
    asked = os.environ.get("CVM_HARNESS_QEMU")
    found = shutil.which(asked or "qemu-system-x86_64")
    if not found:
        raise HostError(
            f"no QEMU: {asked or 'qemu-system-x86_64'} is not an executable on PATH",
            hint="install it (Debian, Ubuntu: apt install qemu-system-x86), "
            "or set CVM_HARNESS_QEMU to the binary",
        )
    return inspect(Path(found))


@functools.cache
def inspect(binary: Path) -> Qemu:
    """Ask a binary for its version. Raises HostError if it is no QEMU, or does not run."""
    output = query(binary, "--version")
    match = re.search(r"QEMU emulator version (.+)", output)
    if not match:
        raise HostError(f"{binary} --version does not look like QEMU: {output[:200]!r}")
    return Qemu(binary, match[1].strip())


def query(binary: Path, *arguments: str) -> str:
    """What QEMU prints for a question such as ("-object", "help"). Raises HostError."""
    try:
        result = ask([binary, *arguments], _PROBE_DEADLINE_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise HostError(f"cannot run {binary} {' '.join(arguments)}: {error}") from error
    return result.stdout + result.stderr


@functools.cache
def emulated_platforms(binary: Path) -> frozenset[str]:
    """The targets whose platform `binary` has under TCG. Raises HostError if it cannot be asked."""
    offered = query(binary, "-object", "help").split()
    return frozenset(target for target, kind in PLATFORMS.items() if kind in offered)
