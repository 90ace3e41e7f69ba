# SPDX-License-Identifier: MIT
"""The CPUID instruction, which needs no privilege; a few bytes of code in a page of our own."""

from __future__ import annotations

import ctypes
import mmap
import platform
from dataclasses import dataclass

# void f(u32 leaf, u32 subleaf, u32 out[4]), System V ABI:
#   push rbx; mov eax, edi; mov ecx, esi; mov r8, rdx; cpuid;
#   mov [r8], eax; mov [r8+4], ebx; mov [r8+8], ecx; mov [r8+12], edx; pop rbx; ret
_CODE = bytes.fromhex("53 89f8 89f1 4989d0 0fa2 418900 41895804 41894808 4189500c 5b c3")


@dataclass(frozen=True)
class Registers:
    """What CPUID returned."""

    eax: int
    ebx: int
    ecx: int
    edx: int


def cpuid(leaf: int, subleaf: int = 0) -> Registers:
    """Execute CPUID on the CPU we happen to run on.

    A leaf above the highest supported one gives zeros here, where hardware may repeat another
    leaf. Raises OSError where it cannot be executed (not x86-64, no executable memory).
    """
    highest = _execute(leaf & 0x8000_0000, 0).eax
    return _execute(leaf, subleaf) if leaf <= highest else Registers(0, 0, 0, 0)


def _execute(leaf: int, subleaf: int) -> Registers:
    if platform.machine() != "x86_64":
        raise OSError(f"no CPUID on {platform.machine()}")
    with mmap.mmap(
        -1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC
    ) as page:
        page.write(_CODE)
        anchor = ctypes.c_char.from_buffer(page)
        function = ctypes.CFUNCTYPE(None, ctypes.c_uint32, ctypes.c_uint32, ctypes.c_void_p)(
            ctypes.addressof(anchor)
        )
        out = (ctypes.c_uint32 * 4)()
        function(leaf, subleaf, ctypes.addressof(out))
        del function, anchor  # the page cannot be unmapped while they point into it
        return Registers(*out)
