# SPDX-License-Identifier: MIT
"""Running make: nothing outlives us, failures are explained, the environment does not leak in."""

import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.base import guarded
from harness.base.guarded import DeadlineExceeded, run_guarded
from harness.base.status import HostError
from harness.kernel import make
from harness.kernel.make import build_environment, compiled_object, first_fault


def run(script: str, tmp_path: Path) -> tuple[int, list[str]]:
    lines: list[str] = []
    code = run_guarded(["sh", "-c", script], cwd=tmp_path, env=os.environ, line=lines.append)
    return code, lines


def soon(condition: Callable[[], bool], seconds: float = 10.0) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.02)
    return False


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_lines_and_exit_code(tmp_path: Path) -> None:
    assert run("echo out; echo err >&2; printf '\\377\\nlast'; exit 7", tmp_path) == (
        7,
        ["out", "err", "\ufffd", "last"],
    )
    assert run("exit 0", tmp_path) == (0, [])


def test_the_mark_of_an_unfinished_run(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    seen = []
    run_guarded(
        ["echo", "x"],
        cwd=tmp_path,
        env=os.environ,
        line=lambda text: seen.append(mark.exists()),
        unfinished=mark,
    )
    assert seen == [True]
    assert not mark.exists()


def test_an_exception_ends_the_group_in_good_order(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    pids: list[int] = []

    def line(text: str) -> None:
        pids.extend(map(int, text.split()))
        raise KeyboardInterrupt

    # The inner shell cleans up upon SIGTERM, as make removes its targets. It waits for the exec of
    # sleep: a signal between fork and exec goes to a handler that the exec then forgets.
    script = """
    trap 'echo cleaned > done; exit 1' TERM
    sleep 100 &
    until grep -q sleep /proc/$!/comm; do :; done
    echo $$ $!
    wait
    """
    with pytest.raises(KeyboardInterrupt):
        run_guarded(["sh", "-c", script], cwd=tmp_path, env=os.environ, line=line, unfinished=mark)
    assert (tmp_path / "done").read_text() == "cleaned\n"
    assert len(pids) == 2
    assert soon(lambda: not any(map(alive, pids)))
    assert not mark.exists()


def test_what_ignores_sigterm_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guarded, "GRACE_S", 0.3)
    mark = tmp_path / "mark"
    pids: list[int] = []

    def line(text: str) -> None:
        pids.append(int(text))
        raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        run_guarded(
            ["sh", "-c", "trap '' TERM; echo $$; sleep 100; sleep 100"],
            cwd=tmp_path,
            env=os.environ,
            line=line,
            unfinished=mark,
        )
    assert soon(lambda: not alive(pids[0]))
    assert mark.exists(), "a killed build must be known as such"


@pytest.mark.parametrize("trap", ["", "trap '' TERM;"])
def test_a_command_past_its_deadline_is_ended_with_its_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trap: str
) -> None:
    monkeypatch.setattr(guarded, "GRACE_S", 0.3)
    pids: list[int] = []
    with pytest.raises(DeadlineExceeded, match=r"sh did not end within 0 s"):
        run_guarded(
            ["sh", "-c", f"{trap} echo $$; sleep 100; sleep 100"],
            cwd=tmp_path,
            env=os.environ,
            line=lambda text: pids.extend(map(int, re.findall(r"^\d+$", text))),
            deadline_s=0.3,
        )
    assert soon(lambda: not alive(pids[0]))


def test_a_command_within_its_deadline_is_left_alone(tmp_path: Path) -> None:
    before = threading.active_count()
    code = run_guarded(
        ["sh", "-c", "exit 3"], cwd=tmp_path, env=os.environ, line=print, deadline_s=100
    )
    assert code == 3
    assert threading.active_count() == before


def test_nothing_outlives_a_killed_harness(tmp_path: Path) -> None:
    program = textwrap.dedent(
        """
        import os, sys
        from pathlib import Path
        from harness.base.guarded import run_guarded
        run_guarded(["sh", "-c", "sleep 100 & sh -c 'echo $$; sleep 100; sleep 100'"],
                    cwd=Path("."), env=os.environ, line=lambda text: print(text, flush=True))
        """
    )
    harness = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert harness.stdout
    group = os.getpgid(int(harness.stdout.readline()))
    members = [p.pid for p in psutil.process_iter() if _group(p.pid) == group]
    assert len(members) >= 4
    harness.send_signal(signal.SIGKILL)
    harness.wait()
    harness.stdout.close()
    assert soon(lambda: not any(map(alive, members)))


def _group(pid: int) -> int:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return -1


def test_a_run_from_a_thread_lives_as_long_as_the_thread_waits(tmp_path: Path) -> None:
    results = []
    thread = threading.Thread(target=lambda: results.append(run("sleep 0.2; echo ok", tmp_path)))
    thread.start()
    thread.join()
    assert results == [(0, ["ok"])]


GCC = """\
  CC      mm/util.o
In file included from ../include/linux/mm.h:5,
../mm/page_alloc.c: In function 'accept_page':
../mm/page_alloc.c:7123:9: error: implicit declaration of function 'frob'
 7123 |         frob();
      |         ^~~~
make[3]: *** [../scripts/Makefile.build:229: mm/page_alloc.o] Error 1
../mm/other.c:1:1: error: second
make: *** [Makefile:224: __sub-make] Error 2
""".splitlines()


@pytest.mark.parametrize(
    ("log", "cause"),
    [
        (GCC, "mm/page_alloc.c:7123:9: error: implicit declaration of function 'frob'"),
        (
            [
                "  LD      vmlinux",
                "ld: mm/a.o: in function `f':",
                "a.c:(.text+0x1): undefined reference to `g'",
                "make: *** [vmlinux] Error 1",
            ],
            "a.c:(.text+0x1): undefined reference to `g'",
        ),
        (
            ["ld: mm/a.o:(.data+0x1): undefined reference to `g'", "make: *** x"],
            "ld: mm/a.o:(.data+0x1): undefined reference to `g'",
        ),
        (["mm/Kconfig:5: syntax error", "make: *** x"], "mm/Kconfig:5: syntax error"),
        (["x.c:3: warning: error: no", "make[1]: *** [y] Error 2"], "make[1]: *** [y] Error 2"),
        (
            ["../a.c:1:10: fatal error: b.h: No such file"],
            "a.c:1:10: fatal error: b.h: No such file",
        ),
        (["hello"], "make failed without an error message"),
    ],
)
def test_the_first_fault(log: list[str], cause: str) -> None:
    assert first_fault(log).cause == cause


@given(st.lists(st.text(alphabet=st.characters(exclude_characters="\n"), max_size=30)))
def test_the_compiler_error_is_found_in_any_noise(noise: list[str]) -> None:
    quiet = [f"  {line}" for line in noise]
    log = [*quiet, "../mm/a.c:1:2: error: boom", *quiet, "make: *** [x] Error 1"]
    assert first_fault(log).cause == "mm/a.c:1:2: error: boom"


@given(st.lists(st.text()))
def test_fault_finder_survives_anything(log: list[str]) -> None:
    assert first_fault(log).cause


@pytest.mark.parametrize(
    ("line", "compiled"),
    [
        ("  CC      mm/page_alloc.o", "mm/page_alloc.o"),
        ("  CC [M]  fs/x.o", "fs/x.o"),
        ("  AS      arch/x86/entry/entry_64.o", "arch/x86/entry/entry_64.o"),
        ("  LD      vmlinux", None),
        ("  HOSTCC  scripts/basic/fixdep", None),
        ("CC mm/page_alloc.o", None),
    ],
)
def test_compiled_objects(line: str, compiled: str | None) -> None:
    assert compiled_object(line) == compiled


def test_environment_that_would_change_the_result_is_dropped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    unwanted = ("KCFLAGS", "LOCALVERSION", "MAKEFLAGS", "ARCH", "LLVM", "KBUILD_BUILD_USER", "CC")
    for name in unwanted:
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("CCACHE_DIR", "/x")
    environment = build_environment(Path("/base"))
    assert environment.keys().isdisjoint(unwanted)
    assert environment["CCACHE_DIR"] == "/x"
    assert environment["PATH"] == os.environ["PATH"]


def test_missing_tools_name_their_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for tool in ("make", "ld", "perl", "awk", "git", "lz4", "setpriv", "bc"):
        (tmp_path / tool).write_text("#!/bin/sh\n")
        (tmp_path / tool).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(HostError) as caught:
        make.check_tools()
    assert caught.value.cause == "cannot build a kernel: missing gcc, flex, bison"
    assert caught.value.hint == "apt-get install bison flex gcc"
