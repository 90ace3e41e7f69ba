# SPDX-License-Identifier: MIT
"""AMD's secure processor asked through /dev/sev (include/uapi/linux/psp-sev.h)."""

from __future__ import annotations

import fcntl
import os
import struct
from ctypes import addressof, create_string_buffer
from dataclasses import dataclass

DEVICE = "/dev/sev"
_SNP_PLATFORM_STATUS = 9
_ISSUE_CMD = 0xC0105300
"""SEV_ISSUE_CMD = _IOWR('S', 0, struct sev_issue_cmd), 16 bytes, packed."""
_COMMAND = struct.Struct("<IQI")
"""struct sev_issue_cmd: cmd, data, error."""
_STATUS = struct.Struct("<BBBBIIIQQ")
"""struct sev_user_data_snp_status: api_major, api_minor, state, flags, build_id, mask flags,
guest_count, current_tcb, reported_tcb."""


@dataclass(frozen=True)
class SnpStatus:
    """What the SNP firmware says of itself."""

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
    descriptor = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
    try:
        answer = create_string_buffer(_STATUS.size)
        command = bytearray(_COMMAND.pack(_SNP_PLATFORM_STATUS, addressof(answer), 0))
        fcntl.ioctl(descriptor, _ISSUE_CMD, command)
    finally:
        os.close(descriptor)
    major, minor, _, _, build, _, guests, _, _ = _STATUS.unpack(answer.raw)
    return SnpStatus(major, minor, build, guests)
