# SPDX-License-Identifier: MIT
"""Stacks are read, and their frames found in a program with line tables, by the real binutils."""

import subprocess
from pathlib import Path

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from harness.base.status import HostError
from harness.kernel.addresses import Frame, annotate, frames, source_lines

TRACE = """\
RIP: 0010:kmem_cache_free.part.0+0x78/0x1f0
Code: 48 03 05 53 af 7e 00
[   10.987477] Call Trace:
[   10.987477]  <TASK>
[   10.987477]  ? list_lru_add_obj+0x73/0x90
[    1.5][  T164]  do_mkdirat+0xd1/0x110
 accept_page+0x10/0x20 [cvm_test]
"""
PROGRAM = """\
static inline __attribute__((always_inline)) int leaf(int *p)
{
	return *(volatile int *)p;
}

__attribute__((noinline)) int middle(int *p)
{
	int n = leaf(p);

	n += leaf(p + 1);
	return n;
}

int main(void)
{
	int n[2] = { 0, 0 };

	return middle(n);
}
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As vmlinux is built and kept: -g1, paths relative, packed."""
    where = tmp_path_factory.mktemp("program")
    (where / "mm.c").write_text(PROGRAM)
    flags = ["-O2", "-g1", f"-fdebug-prefix-map={where}=."]
    subprocess.run(["gcc", *flags, "-o", "vmlinux", "mm.c"], cwd=where, check=True)
    packed = where / "vmlinux.zst"
    packed.write_bytes(zstandard.compress((where / "vmlinux").read_bytes()))
    return packed


def size_of(program: Path, name: str) -> int:
    """As the kernel counts: up to the next symbol."""
    command = ["nm", "-n", "--defined-only", str(program.with_name("vmlinux"))]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    symbols = [(int(line.split()[0], 16), line.split()[2]) for line in said.splitlines()]
    start = next(address for address, found in symbols if found == name)
    return next(address for address, _ in symbols if address > start) - start


def test_a_trace_is_read_without_what_the_kernel_is_unsure_of() -> None:
    assert frames(TRACE.splitlines()) == (
        Frame("kmem_cache_free.part.0+0x78/0x1f0", "kmem_cache_free.part.0", 0x78, 0x1F0, False),
        Frame("do_mkdirat+0xd1/0x110", "do_mkdirat", 0xD1, 0x110, True),
        Frame("accept_page+0x10/0x20", "accept_page", 0x10, 0x20, True),
    )


@given(st.lists(st.text()))
def test_any_text_is_read(lines: list[str]) -> None:
    annotate(lines, {frame.where: "mm.c:1" for frame in frames(lines)})


def test_frames_get_file_and_line_and_what_was_inlined(program: Path) -> None:
    size = size_of(program, "middle")
    start = Frame(f"middle+0x0/{size:#x}", "middle", 0, size, returns=False)
    after_first = Frame(f"middle+0x1/{size:#x}", "middle", 1, size, returns=True)
    found = source_lines(program, [start, after_first])
    assert found[start.where] == "mm.c:3, inlined at mm.c:8"
    assert found[after_first.where] == found[start.where]  # the address of a call is before it
    (line,) = annotate([f" {start.where}"], found)
    assert line == f" {start.where} (mm.c:3, inlined at mm.c:8)"


def test_what_the_kernel_does_not_have_is_left_out(program: Path) -> None:
    size = size_of(program, "middle")
    other_size = Frame("middle+0x0/0x1", "middle", 0, size + 1, returns=False)
    assert source_lines(program, [other_size]) == {}
    assert source_lines(program, []) == {}


def test_without_binutils_it_says_so(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(HostError, match="no nm"):
        source_lines(program, frames(TRACE.splitlines()))
