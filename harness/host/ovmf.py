# SPDX-License-Identifier: MIT
"""What an OVMF image says it can do: the GUIDed table that QEMU reads from its end.

Layout: edk2 OvmfPkg/ResetVector/Ia16/ResetVectorVtf0.asm; reader: QEMU
hw/i386/pc_sysfw_ovmf.c, pc_system_parse_ovmf_flash(). The table grows downwards from 32 bytes
below the end of the image; each entry is data, u16 length (of all of it), 16 bytes GUID.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from pathlib import Path

_FOOTER = uuid.UUID("96b582de-1fb2-45f7-baea-a366c55a082d")
_FOOTER_END = 32
_ENTRY_TAIL = 2 + 16

SEV_HASH_TABLE = uuid.UUID("7255371f-3a3b-4b04-927b-1da6efa8d454")
"""Room for the hashes of kernel, initrd and command line (SEV_HASH_TABLE_RV_GUID)."""
SEV_METADATA = uuid.UUID("dc886566-984a-4798-a75e-5585a7bf67cc")
"""Pages that must be valid before an SNP guest starts (OVMF_SEV_METADATA_GUID)."""
TDX_METADATA = uuid.UUID("e47a6535-984a-4798-865e-4685a7bf8ec2")
"""Sections to load into a TDX guest (TDX_METADATA_OFFSET_GUID)."""
_MAX_IMAGE = 64 << 20


def guided_table(image: bytes) -> Mapping[uuid.UUID, bytes]:
    """The entries of the table at the end of `image`; empty where there is no sound one."""
    end = len(image) - _FOOTER_END
    if end < _ENTRY_TAIL or _guid(image, end) != _FOOTER:
        return {}
    size = int.from_bytes(image[end - _ENTRY_TAIL : end - 16], "little")
    start = end - size
    if size < _ENTRY_TAIL or start < 0:
        return {}
    entries: dict[uuid.UUID, bytes] = {}
    at = end - _ENTRY_TAIL
    while at >= start + _ENTRY_TAIL:
        length = int.from_bytes(image[at - _ENTRY_TAIL : at - 16], "little")
        if length < _ENTRY_TAIL or at - length < start:
            return {}
        entries[_guid(image, at)] = image[at - length : at - _ENTRY_TAIL]
        at -= length
    return entries


def _guid(image: bytes, end: int) -> uuid.UUID:
    return uuid.UUID(bytes_le=image[end - 16 : end])


def read_table(path: Path) -> Mapping[uuid.UUID, bytes]:
    """The table of the image in a file. Raises OSError."""
    if path.stat().st_size > _MAX_IMAGE:
        return {}
    return guided_table(path.read_bytes())
