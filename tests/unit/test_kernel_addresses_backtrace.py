# SPDX-License-Identifier: MIT
"""A stopped vCPU's stack becomes a call trace, wherever KASLR put the kernel."""

import subprocess

import pytest
import zstandard

from harness.kernel.addresses import KernelImage, call_trace, load_image, moved_by

# Linked where the kernel is; `touch_page` is called by `fault_in`, twice.
PROGRAM = """
	.globl _stext, _etext
	.text
_stext:
	.skip 0x300000, 0x90
	.type touch_page, @function
touch_page:
	movq	(%rdi), %rax
	addq	%rax, %rsi
	xorl	%edx, %edx
	movq	%rsi, 8(%rdi)
	ret
	.type fault_in, @function
fault_in:
	call	touch_page
	movl	$0x12345678, %ecx
	call	touch_page
	ret
_etext:
	.data
	.quad 0
"""
LINKED = 0xFFFFFFFF81000000
TOUCH = LINKED + 0x300000
MOVED = 0x1A000000


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> KernelImage:
    where = tmp_path_factory.mktemp("kernel")
    (where / "a.s").write_text(PROGRAM)
    link = ["-nostdlib", "-static", f"-Wl,-Ttext={LINKED:#x}", "-Wl,-e,_stext", "-no-pie"]
    subprocess.run(["gcc", *link, "-o", "vmlinux", "a.s"], cwd=where, check=True)
    (where / "vmlinux.zst").write_bytes(zstandard.compress((where / "vmlinux").read_bytes()))
    return load_image(where / "vmlinux.zst")


def code(image: KernelImage, address: int) -> bytes:
    return image.bytes_at(address, 16)


def returns(image: KernelImage) -> tuple[int, int]:
    """Addresses behind the two calls in fault_in."""
    start = next(a for a, n in zip(image.starts, image.names, strict=True) if n == "fault_in")
    return start + 5, start + 15


@pytest.mark.parametrize("offset", [0, MOVED])
def test_the_instruction_and_its_callers_are_named(image: KernelImage, offset: int) -> None:
    first, second = returns(image)
    stack = [0, 0xFFFF888012345678, second + offset, LINKED + offset + 0x100, first + offset]
    trace = call_trace(image, TOUCH + offset, code(image, TOUCH), stack)
    assert trace[0].startswith("RIP: 0010:touch_page+0x0/0x")
    # The address that follows no call is data that looks like code.
    assert [line.split("/")[0] for line in trace[2:]] == [" fault_in+0xf", " fault_in+0x5"]


def test_instructions_patched_at_boot_do_not_hide_where_the_kernel_is(image: KernelImage) -> None:
    patched = bytearray(code(image, TOUCH))
    patched[1:4] = b"\xcc\xcc\xcc"
    assert moved_by(image, TOUCH + MOVED, bytes(patched)) == MOVED


def test_what_is_not_this_kernels_code_has_no_trace(image: KernelImage) -> None:
    other = bytes(range(16))
    assert call_trace(image, TOUCH + MOVED, other, []) == ()
    assert call_trace(image, 0x7F000000, code(image, TOUCH), []) == ()
    assert call_trace(image, LINKED - 0x1000, code(image, TOUCH), []) == ()
