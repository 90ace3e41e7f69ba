# SPDX-License-Identifier: MIT
"""What the image takes from the host: programs with their shared libraries, and a C compiler."""

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from harness.base.guarded import ask
from harness.base.status import HostError
from harness.base.store import digest_file

PACKAGES = {
    "busybox": "busybox-static",
    "dropbear": "dropbear-bin",
    "gcc": "gcc",
    "kexec": "kexec-tools",
    "stress-ng": "stress-ng",
}
_WARN = ("-Wall", "-Wextra", "-Werror")
_SMALL = ("-Os", "-ffunction-sections", "-fdata-sections", "-Wl,--gc-sections", "-s")
_REPRODUCIBLE = ("-Wl,--build-id=none",)
CFLAGS = ("-std=gnu11", "-D_GNU_SOURCE", "-static", *_WARN, *_SMALL, *_REPRODUCIBLE)
SHARED_CFLAGS = ("-std=gnu11", "-O2", "-fPIC", "-shared", "-fvisibility=hidden", *_WARN)
_LIBRARY = re.compile(r"(?:=>\s*)?(/\S+) \(0x[0-9a-f]+\)$")
_COMPILE_S = 120
_QUICK_S = 30


def find(program: str) -> Path:
    """The program's path; also looks where ordinary users' PATH does not."""
    found = shutil.which(program, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin:/usr/bin")
    if found is None:
        package = PACKAGES.get(program, program)
        raise HostError(f"{program} not found", hint=f"install it: apt install {package}")
    return Path(found)


def _output(argv: Sequence[str | Path], timeout: float, cwd: Path | None = None) -> str:
    try:
        done = ask(argv, timeout, cwd=cwd, env={**os.environ, "LC_ALL": "C"})
    except subprocess.TimeoutExpired as error:
        raise HostError(f"{argv[0]} did not end within {timeout:.0f} s") from error
    except OSError as error:
        raise HostError(f"cannot run {argv[0]}: {error.strerror}") from error
    if done.returncode != 0:
        raise HostError(
            f"{Path(argv[0]).name} failed with exit code {done.returncode}",
            details=(done.stdout + done.stderr).splitlines()[-20:],
        )
    return done.stdout


def applets(busybox: Path) -> list[str]:
    """The paths busybox wants links at, relative to the root: "bin/ls", "usr/bin/awk"."""
    return _output([busybox, "--list-full"], _QUICK_S).split()


def require_static(program: Path, package: str) -> None:
    """Raise unless `program` has no dynamic loader (PT_INTERP)."""
    if b"/ld-linux" in program.read_bytes():
        raise HostError(f"{program} is not statically linked", hint=f"apt install {package}")


def libraries(program: Path) -> list[Path]:
    """The shared libraries and the loader `program` needs, where its loader will look for them."""
    found = []
    for line in _output(["ldd", program], _QUICK_S).splitlines():
        if "not found" in line:
            raise HostError(f"{program}: missing library:{line}")
        if match := _LIBRARY.search(line.strip()):
            found.append(Path(match[1]))
    return sorted(set(found))


def compiler_library(name: str) -> Path:
    """A library of the compiler's own (libgcc_s.so.1) or the static libc, by file name."""
    path = Path(_output([find("gcc"), f"-print-file-name={name}"], _QUICK_S).strip())
    if not path.is_absolute() or not path.exists():
        package = "libc6-dev" if name == "libc.a" else "libgcc-s1"
        raise HostError(f"the compiler has no {name}", hint=f"apt install {package}")
    return path.resolve()


def compiler_identity() -> list[str]:
    """What makes two compilers' output differ, for a digest."""
    version = _output([find("gcc"), "--version"], _QUICK_S).splitlines()[0]
    return [version, digest_file(compiler_library("libc.a")), *CFLAGS]


def compile_static(sources: Sequence[Path], output: Path) -> None:
    """Compile and link `sources`, all in one directory, to a static program."""
    directory = sources[0].parent
    names = [source.name for source in sources]  # relative, so that no path gets into the output
    _output([find("gcc"), *CFLAGS, "-o", output.absolute(), *names], _COMPILE_S, cwd=directory)


def compile_shared(source: Path, output: Path, **macros: int) -> None:
    """Compile one source to a shared library that QEMU can load."""
    defined = [f"-D{name}={value}" for name, value in macros.items()]
    _output([find("gcc"), *SHARED_CFLAGS, *defined, "-o", output.absolute(), source], _COMPILE_S)
