# SPDX-License-Identifier: MIT
"""configure and ninja: what they need, their command lines, what they print."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ninja import BIN_DIR

from harness.kernel.make import BuildFault, build_environment, first_fault, missing_tools, require
from harness.qemu.recipe import CONFIGURE

TOOLS = {
    "gcc": "gcc",
    "ld": "binutils",
    "pkg-config": "pkg-config",
    "git": "git",
    "setpriv": "util-linux",
}
"""Program -> the Debian package that has it. meson and ninja are Python packages."""
LIBRARIES = {
    # The least versions are those that 10.0's meson.build asks for.
    "glib-2.0 >= 2.66.0": "libglib2.0-dev",
    "slirp >= 4.1.0": "libslirp-dev",
    "zlib": "zlib1g-dev",
}
"""pkg-config's name and condition -> the Debian package that has the headers."""
_QUICK_S = 30
TARGET = "qemu-system-x86_64"


def check_tools() -> None:
    """Raise HostError naming what is missing for a build, and the packages to install."""
    missing = missing_tools(TOOLS)
    if "pkg-config" not in missing:
        missing |= {name: package for name, package in LIBRARIES.items() if not _has(name)}
    require("build QEMU", missing)


def _has(library: str) -> bool:
    command = ["pkg-config", "--exists", library]
    return subprocess.run(command, timeout=_QUICK_S, check=False).returncode == 0


def meson_version() -> str:
    """A configured tree is meson's, and of the version that made it."""
    return importlib.metadata.version("meson")


def environment(base_directory: Path) -> dict[str, str]:
    """Our environment without what would make builds differ; ccache keyed by relative paths."""
    unwanted = re.compile(r"(?:C|CXX|CPP|OBJC|LD)FLAGS$|NINJA|PYTHON(?:HOME|PATH)?$|DESTDIR$")
    kept = build_environment(base_directory)
    return {key: value for key, value in kept.items() if not unwanted.match(key)}


def configure_argv(source: Path) -> list[str]:
    """The command line, to be run in the object directory."""
    compiler = "ccache gcc" if shutil.which("ccache") else "gcc"
    return [
        *("nice", "-n", "10", str(source / "configure"), *CONFIGURE),
        f"--cc={compiler}",
        # configure makes a virtual environment of its own, which takes meson from this one.
        f"--python={sys.executable}",
        f"--ninja={_ninja()}",
    ]


def ninja_argv(jobs: int | None) -> list[str]:
    """The command line, to be run in the object directory; by default one job a usable CPU."""
    count = jobs or len(os.sched_getaffinity(0))
    return ["nice", "-n", "10", str(_ninja()), f"-j{count}", TARGET]


def _ninja() -> Path:
    return Path(BIN_DIR) / "ninja"


@dataclass(frozen=True)
class Step:
    """A step that ninja has finished."""

    done: int
    total: int
    what: str
    """"Compiling C object target/i386/cpu.c.o"."""


_STEP = re.compile(r"\[(\d{1,7})/(\d{1,7})\] (.*)", re.ASCII)
_OBJECT = re.compile(r"(Compiling C object ).*/([^/]+)\.o")


def finished_step(line: str) -> Step | None:
    """The step that this line of ninja's output reports."""
    match = _STEP.fullmatch(line)
    return Step(int(match[1]), int(match[2]), _shortened(match[3])) if match else None


def _shortened(what: str) -> str:
    # lib….a.p/meson-generated_.._trace_trace-hw_core.c.o: the last path component says enough.
    return _OBJECT.sub(r"\1\2", what)


_MESON_ERROR = re.compile(r"(?:\S+:\d+:\d+: )?ERROR: .*")


def build_fault(output: Iterable[str]) -> BuildFault:
    """The cause in the output of configure or ninja: meson's error, else the compiler's."""
    lines = list(output)
    for number, text in enumerate(lines):
        if _MESON_ERROR.fullmatch(text.strip()):
            following = (line.strip() for line in lines[number + 1 : number + 8])
            return BuildFault(text.strip().removeprefix("../"), tuple(filter(None, following)))
    return first_fault(lines, "ninja")
