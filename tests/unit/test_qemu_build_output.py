# SPDX-License-Identifier: MIT
"""What configure and ninja print, and the environment they run in."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.qemu.build import (
    build_fault,
    configure_argv,
    environment,
    finished_step,
    ninja_argv,
)


@given(
    st.integers(0, 9_999_999),
    st.integers(0, 9_999_999),
    st.text(st.characters(exclude_categories=["C", "Z"])),
)
def test_a_finished_step(done: int, total: int, what: str) -> None:
    step = finished_step(f"[{done}/{total}] {what}")
    assert step is not None
    assert step[:2] == (done, total)


@given(st.text())
def test_any_other_line_is_no_step(text: str) -> None:
    if not text.startswith("["):
        assert finished_step(text) is None


@pytest.mark.parametrize(
    ("line", "step"),
    [
        (
            "[7/1326] Compiling C object libqemuutil.a.p/util_unicode.c.o",
            (7, 1326, "Compiling C object util_unicode.c"),
        ),
        (
            "[1326/1326] Linking target qemu-system-x86_64",
            (1326, 1326, "Linking target qemu-system-x86_64"),
        ),
        ("ninja: no work to do.", None),
        ("[x/2] Compiling", None),
    ],
)
def test_steps_of_a_build(line: str, step: tuple[int, int, str] | None) -> None:
    assert finished_step(line) == step


COMPILER = """\
[3/9] Compiling C object libqemu-x86_64-softmmu.a.p/target_i386_cgs_core.c.o
FAILED: libqemu-x86_64-softmmu.a.p/target_i386_cgs_core.c.o
gcc -m64 -Ilibqemu-x86_64-softmmu.a.p -o core.c.o -c ../target/i386/cgs/core.c
../target/i386/cgs/core.c: In function 'cgs_accept':
../target/i386/cgs/core.c:99:5: error: 'CgsPage' undeclared (first use in this function)
   99 |     CgsPage page;
ninja: build stopped: subcommand failed.
"""
MESON = """\
Run-time dependency slirp found: NO (tried pkgconfig)

../meson.build:1132:10: ERROR: Dependency "slirp" not found, tried pkgconfig

A full log can be found at /x/obj/meson-logs/meson-log.txt
ERROR: meson setup failed
"""
MKVENV = """\
mkvenv: checking for meson>=1.5.0

*** Ouch! ***

ERROR: Could not provide build dependency 'meson>=1.5.0'
"""
LINKER = """\
FAILED: qemu-system-x86_64
/usr/bin/ld: libqemu.a.p/core.c.o: in function `cgs_accept':
core.c:(.text+0x1): undefined reference to `cgs_lock'
collect2: error: ld returned 1 exit status
ninja: build stopped: subcommand failed.
"""


@pytest.mark.parametrize(
    ("output", "cause"),
    [
        (
            COMPILER,
            "target/i386/cgs/core.c:99:5: error: 'CgsPage' undeclared (first use in this function)",
        ),
        (MESON, 'meson.build:1132:10: ERROR: Dependency "slirp" not found, tried pkgconfig'),
        (MKVENV, "ERROR: Could not provide build dependency 'meson>=1.5.0'"),
        (LINKER, "core.c:(.text+0x1): undefined reference to `cgs_lock'"),
        ("", "ninja failed without an error message"),
    ],
)
def test_the_cause_of_a_failed_build(output: str, cause: str) -> None:
    assert build_fault(output.splitlines()).cause == cause


@given(st.lists(st.text()))
def test_any_output_has_a_cause(lines: list[str]) -> None:
    assert build_fault(lines).cause


def test_the_users_flags_do_not_reach_the_build(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CFLAGS", "LDFLAGS", "NINJA_STATUS", "PYTHONPATH", "CC"):
        monkeypatch.setenv(name, "odd")
    monkeypatch.setenv("PKG_CONFIG_PATH", "/opt/lib/pkgconfig")
    kept = environment(Path("/source"))
    assert "odd" not in kept.values()
    assert kept["PKG_CONFIG_PATH"] == "/opt/lib/pkgconfig"
    assert kept["CCACHE_BASEDIR"] == "/source"


def test_command_lines() -> None:
    assert configure_argv(Path("/source"))[3] == "/source/configure"
    assert "-j3" in ninja_argv(3)
    assert f"-j{len(os.sched_getaffinity(0))}" in ninja_argv(None)
    assert Path(ninja_argv(1)[3]).is_file(), "the ninja of our Python environment"
