# SPDX-License-Identifier: MIT
"""What an OVMF image says it can do: the GUIDed table that QEMU reads from its end (edk2
OvmfPkg/ResetVector/Ia16/ResetVectorVtf0.asm; QEMU hw/i386/pc_sysfw_ovmf.c)."""

import contextlib
import lzma
import uuid
from collections.abc import Iterator, Mapping
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
SEV_ACCEPT_PROTOCOL = uuid.UUID("c5a010fe-38a7-4531-8a4a-0500d2fd1649")
"""By it the kernel's stub asks firmware to leave memory unaccepted; without the question, or the
protocol, OVMF accepts all of it (OvmfPkg/AmdSevDxe, edk2-stable202302; arch/x86/boot/compressed and
drivers/firmware/efi/libstub/x86-stub.c, setup_unaccepted_memory(), 6.6)."""
_MAX_IMAGE = 64 << 20
LZMA_SECTION = uuid.UUID("ee4e5898-3914-4259-9d6e-dc7bd79403cf")
"""A section whose content is LZMA (gLzmaCustomDecompressGuid, MdeModulePkg.dec)."""
_GUID_DEFINED = 0x02
_SHORT_HEADER, _LONG_HEADER = 4, 8


def guided_table(image: bytes) -> Mapping[uuid.UUID, bytes]:
    """The entries of the table at the end of `image`; empty where there is no sound one. It grows
    downwards from 32 bytes below the end: data, u16 length (of all of the entry), 16 bytes GUID."""
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


def drivers_mention(image: bytes, guid: uuid.UUID) -> bool | None:
    """Whether the packed drivers of `image` hold `guid`; None where none can be unpacked. Sections:
    UEFI Platform Initialization specification 1.8, volume 3, 3.2.5."""
    found = None
    for volume in _unpacked(image):
        if guid.bytes_le in volume:
            return True
        found = False
    return found


def _unpacked(image: bytes) -> Iterator[bytes]:
    at = image.find(LZMA_SECTION.bytes_le)
    while at >= 0:
        for header in (_SHORT_HEADER, _LONG_HEADER):
            start = at - header
            if start >= 0 and image[start + 3] == _GUID_DEFINED:
                data = start + int.from_bytes(image[at + 16 : at + 18], "little")
                with contextlib.suppress(lzma.LZMAError, EOFError):
                    unpacker = lzma.LZMADecompressor(lzma.FORMAT_ALONE)
                    yield unpacker.decompress(image[data:], _MAX_IMAGE)
                    break
        at = image.find(LZMA_SECTION.bytes_le, at + 1)
