# SPDX-License-Identifier: MIT
"""What /dev/kvm says of itself (Documentation/virt/kvm/api.rst); asking needs no root."""

from __future__ import annotations

import enum
import fcntl
import os

DEVICE = "/dev/kvm"
CAP_VM_TYPES = 235
"""KVM_CAP_VM_TYPES, include/uapi/linux/kvm.h: a bit mask of the VM types below."""
_CHECK_EXTENSION = 0xAE03
"""KVM_CHECK_EXTENSION = _IO(KVMIO, 0x03)."""


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
    descriptor = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
    try:
        return fcntl.ioctl(descriptor, _CHECK_EXTENSION, number)
    finally:
        os.close(descriptor)


def vm_types(mask: int) -> list[VmType]:
    """The types in a KVM_CAP_VM_TYPES mask; none where KVM is too old to say."""
    return [kind for kind in VmType if mask >> kind & 1]
