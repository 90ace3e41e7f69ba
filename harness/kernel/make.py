# SPDX-License-Identifier: MIT
"""make: what it needs, its command line, its failure explained. harness/base/guarded.py runs it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from harness.base.status import HarnessError, HostError, Status
from harness.base.store import digest_of


class KernelBuildError(HarnessError):
    """The kernel under test does not build: ERROR, which bisect skips."""

    status = Status.ERROR
    exit_code = Status.ERROR.exit_code


# Each program or header and the Debian package it comes from; scripts/setup installs them all.
_NAMESAKES = ("make", "gcc", "flex", "bison", "bc", "perl", "git", "lz4")
TOOLS = {
    **{tool: tool for tool in _NAMESAKES},
    **{"ld": "binutils", "awk": "mawk", "setpriv": "util-linux"},
}
HEADERS = {"gelf.h": "libelf-dev"}


def check_tools() -> None:
    """Raise HostError naming what is missing for a build, and the packages to install."""
    missing = missing_tools(TOOLS)
    if "gcc" not in missing:
        for header, package in HEADERS.items():
            argv = ["gcc", "-E", "-include", header, "-x", "c", "-o", os.devnull, os.devnull]
            if subprocess.run(argv, capture_output=True, check=False).returncode:
                missing[header] = package
    require("build a kernel", missing)


def missing_tools(tools: Mapping[str, str]) -> dict[str, str]:
    """Those of `tools` (program -> Debian package) that are not on PATH."""
    return {tool: package for tool, package in tools.items() if not shutil.which(tool)}


def require(purpose: str, missing: Mapping[str, str]) -> None:
    """Raise HostError that names everything `missing` (thing -> Debian package), if anything is."""
    if missing:
        raise HostError(
            f"cannot {purpose}: missing {', '.join(missing)}",
            hint=f"apt-get install {' '.join(sorted(set(missing.values())))}",
        )


@dataclass(frozen=True)
class Toolchain:
    """The compiler and linker, by what they say of themselves."""

    compiler: str
    linker: str

    @classmethod
    def detect(cls) -> Toolchain:
        return cls(_first_line("gcc", "--version"), _first_line("ld", "--version"))

    @property
    def digest(self) -> str:
        return digest_of(self.compiler, self.linker)


def _first_line(*argv: str) -> str:
    env = os.environ | {"LC_ALL": "C"}
    return subprocess.check_output(argv, env=env, text=True).partition("\n")[0]


# Every variable a kernel Makefile would take from the environment and that changes the result.
_UNWANTED = re.compile(
    r"KBUILD_|KCONFIG_|KCFLAGS|KCPPFLAGS|LOCALVERSION|ARCH$|CROSS_COMPILE|MAKE|MFLAGS|LLVM|CC$|"
    r"LD$|HOSTCC|HOSTCFLAGS|HOSTLDFLAGS|C_INCLUDE_PATH|CPATH|GCC_|INSTALL_|V$|W$|C$|O$|M$"
)


def build_environment(base_directory: Path) -> dict[str, str]:
    """Our environment without what would make builds differ; ccache keyed by relative paths."""
    kept = {key: value for key, value in os.environ.items() if not _UNWANTED.match(key)}
    return kept | {
        "LC_ALL": "C",
        "CCACHE_BASEDIR": str(base_directory),
        "CCACHE_NOHASHDIR": "1",
        "CCACHE_SLOPPINESS": "time_macros",
    }


def make_argv(objects: Path, *targets: str, release: str = "") -> list[str]:
    """The command line: nice, all cores, ccache if there is one, and nothing that names us.

    KBUILD_BUILD_* are fixed for reproducible output (Documentation/kbuild/reproducible-builds).
    -g1 adds line tables, for stacks (addresses.py): the code is the same, the build 5 % longer.
    """
    compiler = "ccache gcc" if shutil.which("ccache") else "gcc"
    return [
        *("nice", "-n", "10", "make", f"-j{len(os.sched_getaffinity(0))}", f"O={objects}"),
        *("ARCH=x86_64", f"CC={compiler}", "HOSTCC=" + compiler, f"LOCALVERSION={release}"),
        *("KBUILD_BUILD_USER=cvm-harness", "KBUILD_BUILD_HOST=cvm-harness"),
        f"KCFLAGS=-g1 -fdebug-prefix-map={objects}=.",
        *("KBUILD_BUILD_VERSION=1", "KBUILD_BUILD_TIMESTAMP=1970-01-01 00:00:00 UTC"),
        *targets,
    ]


_COMPILED = re.compile(r"^  (?:CC|AS)\s+(?:\[M\]\s+)?(\S+)$")


def compiled_object(line: str) -> str | None:
    """The object that this line of kbuild's output says is being compiled."""
    match = _COMPILED.match(line)
    return match[1] if match else None


_ERRORS = (
    # gcc, as, Kconfig's parser: file:line[:column]: [fatal ]error: ..., "file:line: syntax error"
    re.compile(r"^\S[^:\n]*:\d+:(?:\d+:)? (?:fatal )?(?:error|Error|syntax error)\b.*"),
    re.compile(
        r"^\S*ld(?:\.bfd)?: .*(?:undefined reference|multiple definition|cannot find|error).*"
    ),
    re.compile(r"^(?:ERROR: modpost:|error: objtool|\S+: error: objtool).*"),
    re.compile(r"^\S+:\(.*\): undefined reference to .*"),
    re.compile(r"^(?:gcc|cc1|as|ld|collect2|ccache): (?:fatal |internal )?(?:compiler )?error: .*"),
    re.compile(r"^make(?:\[\d+\])?: \*\*\* .*"),
    re.compile(r"^/bin/sh: .*"),
)
_CONTEXT_LINES = 8


@dataclass(frozen=True)
class BuildFault:
    """The first thing that went wrong, and the lines that follow it."""

    cause: str
    details: tuple[str, ...]


def first_fault(lines: Iterable[str], tool: str = "make") -> BuildFault:
    """Find the cause in a build log: the first compiler error, else the linker's, else make's."""
    kept = list(lines)
    for pattern in _ERRORS:
        for number, text in enumerate(kept):
            if pattern.match(text):
                context = kept[number + 1 : number + 1 + _CONTEXT_LINES]
                return BuildFault(_relative(text), tuple(map(_relative, context)))
    return BuildFault(f"{tool} failed without an error message", tuple(kept[-_CONTEXT_LINES:]))


def host_fault(lines: Iterable[str], doing: str) -> HostError | None:
    """The error if these last lines say that the host is to blame: no space, no memory."""
    for text in lines:
        if "No space left on device" in text or "Disk quota exceeded" in text:
            return HostError(f"no space left on device while {doing}", hint="cvm-harness gc")
        if "Killed signal terminated program" in text:
            return HostError(
                f"the compiler was killed while {doing}: the host is out of memory",
                hint="free memory on the host, or use fewer cores (taskset)",
            )
    return None


def _relative(text: str) -> str:
    return text.removeprefix("../")
