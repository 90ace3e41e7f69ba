# SPDX-License-Identifier: MIT
"""The test hooks as a module: built once, and each way in which that fails says what it is."""

import dataclasses
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.base.progress import silent
from harness.base.status import HostError, NotApplicable
from harness.base.store import Store
from harness.kernel import headers, hook_module
from harness.kernel.headers import Headers
from harness.kernel.hook_module import HookModule, shadow
from harness.kernel.kernel import Kernel
from harness.kernel.make import KernelBuildError
from tests.unit.test_kernel_headers import COMMON, NAME, RELEASE, lay_out

needs_compiler = pytest.mark.skipif(
    not (shutil.which("gcc") and shutil.which("make")), reason="no compiler"
)
BUILDS = "modules:\n\techo built >> {log}; $(CC) -c -x c /dev/null -o $(M)/unaccepted_test.ko\n"
FAILS = "modules:\n\t@echo '/x/unaccepted_test.c:7:1: error: no such thing'; exit 1\n"


@pytest.fixture
def kernel(tmp_path: Path) -> Kernel:
    """One whose modules have the headers beside them."""
    modules = tmp_path / "modules"
    lay_out(modules / "build")
    config = tmp_path / "config"
    config.write_text("".join(f"CONFIG_{symbol}=y\n" for symbol in hook_module._NEEDS))
    return Kernel(tmp_path / "vmlinuz", "6.12.9", RELEASE, "d", config, modules, {})


@pytest.fixture
def made(kernel: Kernel, tmp_path: Path) -> HookModule:
    return HookModule(kernel, Store(tmp_path / "store"), silent)


def set_makefile(kernel: Kernel, text: str) -> None:
    assert kernel.modules
    (kernel.modules / "build/Makefile").write_text(text)


@needs_compiler
def test_the_module_is_built_once_and_alone_is_kept(
    made: HookModule, kernel: Kernel, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    set_makefile(kernel, BUILDS.format(log=log))
    module = made.path(RELEASE)
    assert module.read_bytes()[:4] == b"\x7fELF"
    again = HookModule(kernel, Store(tmp_path / "store"), silent)
    assert again.path(RELEASE) == module
    assert log.read_text() == "built\n"
    assert {path.name for path in module.parent.iterdir()} == {module.name, ".last-used"}


@needs_compiler
def test_a_failed_build_says_the_compilers_error_and_is_not_tried_again(
    made: HookModule, kernel: Kernel
) -> None:
    set_makefile(kernel, FAILS)
    with pytest.raises(KernelBuildError, match=r"do not build as a module.*no such thing") as first:
        made.path(RELEASE)
    with pytest.raises(KernelBuildError) as second:
        made.path(RELEASE)
    assert first.value is second.value


def test_without_a_compiler_the_package_is_named(
    made: HookModule, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(HostError, match="cannot build the test hooks as a module") as caught:
        made.path(RELEASE)
    assert "gcc" in caught.value.hint


@pytest.mark.parametrize("symbol", ["MODULES", "KPROBES", "DEBUG_FS"])
def test_a_kernel_that_cannot_have_it_is_not_applicable(kernel: Kernel, symbol: str) -> None:
    assert kernel.config
    kernel.config.write_text(kernel.config.read_text().replace(f"CONFIG_{symbol}=y\n", ""))
    with pytest.raises(NotApplicable, match=f"accept-test patch, and without CONFIG_{symbol} the"):
        HookModule(kernel, Store(), silent).path(RELEASE)


def test_of_a_kernel_with_no_configuration_nothing_is_ruled_out(kernel: Kernel) -> None:
    hook_module.check_kernel_takes_it(dataclasses.replace(kernel, config=None))


def packaged(root: Path) -> Headers:
    """Headers as packages have them, below `root`."""
    directory = lay_out(root / "usr/src" / NAME)
    (directory / "Makefile").write_text(
        f"KBUILD_OUTPUT=/usr/src/{NAME}\ninclude /usr/src/{COMMON}/Makefile\n"
    )
    for name in ("scripts", "tools"):
        tools = root / "usr/lib/kbuild" / name
        tools.mkdir(parents=True)
        shutil.copy("/bin/true", tools / "program")
        (tools / "text.sh").write_text("#!/bin/sh\n")
        (directory / name).symlink_to(f"../../lib/kbuild/{name}")
    (directory / "vmlinux").write_text("")
    return Headers(directory, "identity", root)


@pytest.fixture
def make_shadow(tmp_path: Path) -> Callable[[], Path]:
    def make() -> Path:
        found = packaged(tmp_path / "root")
        store = Store(tmp_path / "store")
        return shadow(found, tmp_path / "root", tmp_path / "shadow", store, silent)

    return make


def test_fetched_headers_are_seen_at_the_place_that_their_makefile_names(
    make_shadow: Callable[[], Path], tmp_path: Path
) -> None:
    seen = make_shadow()
    assert (seen / "Makefile").read_text() == (
        f"KBUILD_OUTPUT={seen}\ninclude {tmp_path}/root/usr/src/{COMMON}/Makefile\n"
    )
    assert (seen / "include/config/auto.conf").is_file()
    assert (seen / "scripts").resolve() == tmp_path / "root/usr/lib/kbuild/scripts"
    assert not (seen / "vmlinux").exists()  # no BTF is made of it


def test_tools_of_a_newer_suite_run_with_its_libraries_under_their_own_name(
    make_shadow: Callable[[], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loader = tmp_path / headers.LOADER
    loader.write_text('#!/bin/sh\necho "$@"\n')
    loader.chmod(0o755)
    asked: list[str] = []

    def fetch(version: str, *_: Any) -> Path:
        asked.append(version)
        return tmp_path

    monkeypatch.setattr(hook_module, "missing_glibc", lambda programs: "2.38")
    monkeypatch.setattr(hook_module, "fetch_libraries", fetch)
    seen = make_shadow()
    program = seen / "tools/program"
    done = subprocess.run([program, "a b"], capture_output=True, text=True, check=True)
    real = tmp_path / "root/usr/lib/kbuild/tools/program"
    assert done.stdout == f"--library-path {tmp_path} --argv0 {program} {real} a b\n"
    assert (seen / "tools/text.sh").read_text() == "#!/bin/sh\n"
    assert asked == ["2.38"]
    assert real.read_bytes()[:4] == b"\x7fELF"  # the store's own stays as it is


def test_what_runs_here_needs_no_other_glibc() -> None:
    assert headers.missing_glibc([Path("/bin/true"), Path("/bin/sh")]) == ""
    assert headers.missing_glibc([]) == ""


def test_the_newest_glibc_that_any_program_wants_is_the_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ldd = tmp_path / "ldd"
    ldd.write_text(
        "#!/bin/sh\n"
        'for program; do echo "$program:"; done\n'
        'echo "a: /lib/libc.so.6: version \\`GLIBC_2.9\' not found (required by a)" >&2\n'
        'echo "b: /lib/libc.so.6: version \\`GLIBC_2.38\' not found (required by b)" >&2\n'
        "exit 1\n"
    )
    ldd.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert headers.missing_glibc([Path("a"), Path("b")]) == "2.38"
