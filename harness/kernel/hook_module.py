# SPDX-License-Identifier: MIT
"""The in-kernel test hooks as a module for a kernel that stays as it is, built once.

Its source is the one that the carried patch accept-test builds in (docs/suite.md).
"""

import shlex
import shutil
from pathlib import Path

from harness.base.guarded import run_guarded
from harness.base.progress import Progress
from harness.base.resources import carried
from harness.base.status import HarnessError, NotApplicable
from harness.base.store import Store, digest_file, digest_of
from harness.kernel.headers import LOADER, Headers, fetch_libraries, find_headers, missing_glibc
from harness.kernel.kernel import Kernel
from harness.kernel.make import (
    KernelBuildError,
    Toolchain,
    build_environment,
    first_fault,
    host_fault,
    missing_tools,
    require,
)

NAME = "unaccepted_test"
SOURCE = carried("kernel-configs") / "src" / "accept-test" / "mm" / f"{NAME}.c"
_KIND = "hook-module"
_RECIPE = "hook-module-1"
_TOOLS = {"make": "make", "gcc": "gcc", "ld": "binutils", "strip": "binutils"}
_NEEDS = ("MODULES", "KPROBES", "KALLSYMS", "DEBUG_FS", "UNACCEPTED_MEMORY")
"""Without one of these a kernel can have no such module."""
_OLDER_COMPILER = {"-fmin-function-alignment=16": "CONFIG_CC_HAS_MIN_FUNCTION_ALIGNMENT"}
"""Options (gcc 14) that the kernel's compiler had and ours may not: what says so to its build."""


class HookModule:
    """The module for one kernel; built, or refused, at most once."""

    def __init__(self, kernel: Kernel, store: Store, progress: Progress) -> None:
        self._kernel = kernel
        self._store = store
        self._progress = progress
        self._built: dict[str, Path | HarnessError] = {}

    def path(self, release: str) -> Path:
        """The file, for a guest that calls its kernel `release`.

        Raises NotApplicable for a kernel that cannot have it; PreconditionError, HostError or
        KernelBuildError where it cannot be built.
        """
        if release not in self._built:
            try:
                check_kernel_takes_it(self._kernel)
                self._built[release] = build_module(
                    release, self._kernel.modules, self._store, self._progress
                )
            except HarnessError as error:
                self._built[release] = error
        answer = self._built[release]
        if isinstance(answer, HarnessError):
            raise answer
        return answer


def check_kernel_takes_it(kernel: Kernel) -> None:
    """Raise NotApplicable for a kernel that is known to have no place for the module."""
    lacks = [f"CONFIG_{symbol}" for symbol in _NEEDS if kernel.has(symbol) is False]
    if lacks:
        raise NotApplicable(
            f"the kernel lacks the carried accept-test patch, and without {', '.join(lacks)} "
            "the test hooks cannot be loaded either"
        )


def build_module(release: str, modules: Path | None, store: Store, progress: Progress) -> Path:
    """The module for the kernel `release`, from the store or built. Raises as `HookModule.path`."""
    require("build the test hooks as a module", missing_tools(_TOOLS))
    headers = find_headers(release, modules, store, progress)
    digest = digest_of(_RECIPE, digest_file(SOURCE), headers.identity, Toolchain.detect().digest)

    def build(directory: Path) -> None:
        progress("build", 0, None, f"the test hooks as a module for {release}")
        _build(headers, directory, store, progress)

    return store.fetch(_KIND, digest, build) / f"{NAME}.ko"


def _build(headers: Headers, directory: Path, store: Store, progress: Progress) -> None:
    work = directory / "work"
    work.mkdir()
    shutil.copy(SOURCE, work)
    (work / "Kbuild").write_text(f"obj-m := {NAME}.o\n")
    tree = headers.directory
    if headers.root:
        tree = shadow(headers, headers.root, directory / "headers", store, progress)
    lines: list[str] = []
    argv = [
        *("nice", "-n", "10", "make", "-C", str(tree), f"M={work}", "CC=gcc"),
        # Of BTF the kernel has its own, which a module's may not fit; without any it is loaded.
        "CONFIG_DEBUG_INFO_BTF_MODULES=",
        *(f"{symbol}=" for option, symbol in _OLDER_COMPILER.items() if not _gcc_takes(option)),
        "modules",
    ]
    code = run_guarded(argv, cwd=work, env=build_environment(work), line=lines.append)
    module = work / f"{NAME}.ko"
    if code or not module.is_file():
        fault = first_fault(lines)
        raise host_fault(lines, "building the test hooks") or KernelBuildError(
            f"the test hooks do not build as a module with the headers in {headers.directory}: "
            f"{fault.cause}",
            details=fault.details,
        )
    result = directory / module.name
    _quietly("strip", "--strip-debug", "-o", str(result), str(module))
    shutil.rmtree(work)
    shutil.rmtree(directory / "headers", ignore_errors=True)


def _quietly(*argv: str) -> None:
    lines: list[str] = []
    if run_guarded(list(argv), cwd=Path("/"), env=build_environment(Path("/")), line=lines.append):
        raise KernelBuildError(f"{argv[0]} failed on the module of test hooks", details=lines[-5:])


def _gcc_takes(option: str) -> bool:
    argv = ["gcc", option, "-x", "c", "-fsyntax-only", "/dev/null"]
    return run_guarded(argv, cwd=Path("/"), env=build_environment(Path("/")), line=_drop) == 0


def _drop(line: str) -> None:
    """What a probe prints is of no interest."""


def shadow(headers: Headers, root: Path, at: Path, store: Store, progress: Progress) -> Path:
    """`headers` as their Makefile expects them: at the place that it names, with tools that run.

    Packages name /usr/src, where these are not installed. And the tools in them are those of the
    suite that they are from, which may be newer than this machine.
    """
    at.mkdir()
    for entry in headers.directory.iterdir():
        if entry.name not in ("Makefile", "vmlinux"):  # without vmlinux there is no BTF to fit
            (at / entry.name).symlink_to(entry.resolve())
    text = (headers.directory / "Makefile").read_text()
    text = text.replace(f"/usr/src/{headers.directory.name}", str(at))
    (at / "Makefile").write_text(text.replace("/usr/src/", f"{root}/usr/src/"))
    programs = [path for name in ("scripts", "tools") for path in _programs(at / name)]
    if version := missing_glibc(programs):
        libraries = fetch_libraries(version, store, progress)
        for name in ("scripts", "tools"):
            _wrap(at / name, libraries)
    return at


def _programs(directory: Path) -> list[Path]:
    """The x86-64 programs in `directory`."""
    found = (path for path in sorted(directory.resolve().rglob("*")) if path.is_file())
    return [path for path in found if _is_program(path)]


def _is_program(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(20)
    return head[:5] == b"\x7fELF\x02" and head[18:20] == b"\x3e\x00"


def _wrap(directory: Path, libraries: Path) -> None:
    """Replace the link `directory` by a copy whose programs run with `libraries`."""
    original = directory.resolve()
    directory.unlink()
    shutil.copytree(original, directory, symlinks=True)
    for program in _programs(directory):
        loader = shlex.join(map(str, [libraries / LOADER, "--library-path", libraries]))
        real = shlex.quote(str(original / program.relative_to(directory.resolve())))
        program.chmod(0o755)
        # By its name a program finds others beside it: Debian's objtool does.
        program.write_text(f'#!/bin/sh\nexec {loader} --argv0 "$0" {real} "$@"\n')
