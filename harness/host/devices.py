# SPDX-License-Identifier: MIT
"""What CPUID, /dev/kvm and AMD's secure processor say of themselves."""

import ctypes
import enum
import fcntl
import mmap
import platform
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

# void f(u32 leaf, u32 subleaf, u32 out[4]), System V ABI:
#   push rbx; mov eax, edi; mov ecx, esi; mov r8, rdx; cpuid;
#   mov [r8], eax; mov [r8+4], ebx; mov [r8+8], ecx; mov [r8+12], edx; pop rbx; ret
_CODE = bytes.fromhex("53 89f8 89f1 4989d0 0fa2 418900 41895804 41894808 4189500c 5b c3")

KVM = "/dev/kvm"
"""Documentation/virt/kvm/api.rst; asking needs no root."""
CAP_VM_TYPES = 235
"""KVM_CAP_VM_TYPES, include/uapi/linux/kvm.h: a bit mask of the VM types below."""
_CHECK_EXTENSION = 0xAE03
"""KVM_CHECK_EXTENSION = _IO(KVMIO, 0x03)."""

SEV = "/dev/sev"
"""include/uapi/linux/psp-sev.h."""
_SNP_PLATFORM_STATUS = 9
_ISSUE_CMD = 0xC0105300
"""SEV_ISSUE_CMD = _IOWR('S', 0, struct sev_issue_cmd), 16 bytes, packed."""
_COMMAND = struct.Struct("<IQI")
"""struct sev_issue_cmd: cmd, data, error."""
_STATUS = struct.Struct("<BBBBIIIQQ")
"""struct sev_user_data_snp_status: api_major, api_minor, state, flags, build_id, mask flags,
guest_count, current_tcb, reported_tcb."""


class Registers(NamedTuple):
    eax: int
    ebx: int
    ecx: int
    edx: int


def cpuid(leaf: int, subleaf: int = 0) -> Registers:
    """Execute CPUID, which needs no privilege, on the CPU we happen to run on; zeros for a leaf
    above the highest. Raises OSError where it cannot be executed (not x86-64, no executable
    memory)."""
    highest = _execute(leaf & 0x8000_0000, 0).eax
    return _execute(leaf, subleaf) if leaf <= highest else Registers(0, 0, 0, 0)


def _execute(leaf: int, subleaf: int) -> Registers:
    if platform.machine() != "x86_64":
        raise OSError(f"no CPUID on {platform.machine()}")
    access = mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC
    with mmap.mmap(-1, mmap.PAGESIZE, prot=access) as page:
        page.write(_CODE)
        anchor = ctypes.c_char.from_buffer(page)
        kind = ctypes.CFUNCTYPE(None, ctypes.c_uint32, ctypes.c_uint32, ctypes.c_void_p)
        function = kind(ctypes.addressof(anchor))
        out = (ctypes.c_uint32 * 4)()
        function(leaf, subleaf, ctypes.addressof(out))
        del function, anchor  # the page cannot be unmapped while they point into it
        return Registers(*out)


class VmType(enum.IntEnum):
    """Bits of KVM_CAP_VM_TYPES (arch/x86/include/uapi/asm/kvm.h, 6.16)."""

    DEFAULT = 0
    SW_PROTECTED = 1
    SEV = 2
    SEV_ES = 3
    SNP = 4
    TDX = 5


def check_extension(number: int) -> int:
    """KVM_CHECK_EXTENSION on the system. Raises OSError where /dev/kvm cannot be opened."""
    with Path(KVM).open("r+b", buffering=0) as device:
        return fcntl.ioctl(device, _CHECK_EXTENSION, number)


@dataclass(frozen=True)
class SnpStatus:
    api_major: int
    api_minor: int
    build: int
    guests: int
    """SNP guests that exist now."""

    @property
    def version(self) -> str:
        """As in "1.55 build 21"."""
        return f"{self.api_major}.{self.api_minor} build {self.build}"


def snp_platform_status() -> SnpStatus:
    """SNP_PLATFORM_STATUS. Raises OSError: EACCES without the right to the device.

    To be asked only where kvm_amd has SNP enabled: before that the command may initialise the
    firmware, and a probe must change nothing.
    """
    answer = ctypes.create_string_buffer(_STATUS.size)
    command = bytearray(_COMMAND.pack(_SNP_PLATFORM_STATUS, ctypes.addressof(answer), 0))
    with Path(SEV).open("r+b", buffering=0) as device:
        fcntl.ioctl(device, _ISSUE_CMD, command)
    major, minor, _, _, build, _, guests, _, _ = _STATUS.unpack(answer.raw)
    return SnpStatus(major, minor, build, guests)
