# SPDX-License-Identifier: MIT
"""A kernel that somebody else built, used as it is: what its bzImage says of itself (setup header,
Documentation/arch/x86/boot.rst; configuration, IKCFG in kernel/configs.c), what is beside it."""

import bz2
import contextlib
import lzma
import re
import struct
import subprocess
import tempfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import zstandard

from harness.base.status import UsageError
from harness.base.store import Store, digest_file
from harness.kernel.kernel import Kernel, KernelRequest, module_tree
from harness.kernel.version import Version


def check_unchanged(request: KernelRequest) -> None:
    """Raise UsageError where `request` asks for something that only a build could do."""
    asked = [
        *(f"--patch {patch}" for patch in request.patches),
        *(f"--set {setting}" for setting in request.settings),
        *(f"--fragment {fragment}" for fragment in request.extra),
    ]
    if asked:
        raise UsageError(
            f"{request.source} is already built: {', '.join(asked)} cannot be applied to it",
            hint="give its source instead (debian:6.12, a kernel tree), or leave them out",
        )


def beside(path: Path, release: str) -> tuple[Path | None, Path | None]:
    """Configuration and module tree of the image at `path`, by where it lies; None: not there.

    ROOT/boot/vmlinuz-RELEASE has ROOT/lib/modules/RELEASE, and its configuration beside it, in
    ROOT/boot/config-RELEASE, or in that tree (Debian from 7.1 on, Fedora), where the image may be,
    too. The bzImage of a kernel built here has .config and modules/lib/modules/RELEASE.
    """
    trees = [module_tree(root, release) for root in (path.parent.parent, path.parent / "modules")]
    tree = path.parent if path.parent.name == release else trees[0] or trees[1]
    configs = [path.with_name(name) for name in (f"config-{release}", ".config")]
    if tree:
        configs.append(tree / "config")
    return next((config for config in configs if config.is_file()), None), tree


def prebuilt(
    path: Path, request: KernelRequest, store: Store, source: Mapping[str, object] | None = None
) -> Kernel:
    """The kernel in the bzImage at `path`, with what is beside it; `source` says where it is from.
    Raises UsageError for what is no bzImage, and for a `request` that asks for changes."""
    check_unchanged(request)
    image = read_bzimage(path)
    digest = digest_file(path)
    config, modules = beside(path, image.release)
    if image.config is not None:
        text = image.config

        def keep(entry: Path) -> None:
            (entry / ".config").write_text(text)

        config = store.fetch("kernel-config", digest, keep) / ".config"
    facts = {
        "source": dict(source or {"kind": "bzImage", "path": str(path)}),
        "bzimage_sha256": digest,
        "configuration_known": config is not None,
    }
    return Kernel(path, str(image.version), image.release, digest, config, modules, facts)


_MAGIC_OFFSET, _MAGIC = 0x202, b"HdrS"
_PROTOCOL_OFFSET = 0x206
_KERNEL_VERSION_OFFSET = 0x20E
_LOADFLAGS_OFFSET, _LOADED_HIGH = 0x211, 1
_SETUP_SECTS_OFFSET = 0x1F1
_BOOT_FLAG_OFFSET, _BOOT_FLAG = 0x1FE, 0xAA55
_PAYLOAD_OFFSET = 0x248
_PAYLOAD_PROTOCOL = 0x0208
_HEADER_END = 0x268
_SECTOR = 512
_VMLINUX_LIMIT = 1 << 30
"""No vmlinux is larger than 1 GiB: what unpacks to more is not one."""
_IKCONFIG_START, _IKCONFIG_LIMIT = b"IKCFG_ST", 4 << 20
_RELEASE = re.compile(r"\d{1,4}\.\d{1,4}(?:\.\d{1,4})?")


@dataclass(frozen=True)
class BzImage:
    """The facts in a bzImage. `config` is the embedded .config; None: has none, or unreadable."""

    release: str
    version: Version
    config: str | None


def read_bzimage(path: Path) -> BzImage:
    """Read and validate. Raises UsageError for anything that is not a Linux x86 bzImage."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}", hint="check the path") from error
    problem = _problem(data)
    if problem:
        raise UsageError(
            f"{path} is not an x86 bzImage: {problem}",
            hint="give arch/x86/boot/bzImage or a distribution's vmlinuz, not vmlinux",
        )
    start = _word(data, _KERNEL_VERSION_OFFSET) + 0x200
    text = data[start : min(start + 256, _setup_size(data))].partition(b"\0")[0]
    release = text.decode("ascii", errors="replace")
    numbers = _RELEASE.match(release)
    if not numbers:
        raise UsageError(
            f"{path} names no kernel version (its header says {release!r})",
            hint="give a bzImage as the kernel's own build makes it",
        )
    return BzImage(release.split()[0], Version.parse(numbers[0]), _embedded_config(data))


def _problem(data: bytes) -> str:
    if len(data) < _HEADER_END:
        return f"it has only {len(data)} bytes"
    if data[_MAGIC_OFFSET : _MAGIC_OFFSET + 4] != _MAGIC:
        kind = "it is an ELF file" if data[:4] == b"\x7fELF" else "there is no setup header"
        return f"{kind} (no HdrS at 0x202)"
    if _word(data, _BOOT_FLAG_OFFSET) != _BOOT_FLAG:
        return "its boot flag is not 0xAA55"
    if not data[_LOADFLAGS_OFFSET] & _LOADED_HIGH:
        return "it is a zImage"
    if len(data) < _setup_size(data):
        return "it is truncated"
    return ""


def _word(data: bytes, offset: int) -> int:
    return int(struct.unpack_from("<H", data, offset)[0])


def _setup_size(data: bytes) -> int:
    # setup_sects of 0 means 4, for old loaders.
    return ((data[_SETUP_SECTS_OFFSET] or 4) + 1) * _SECTOR


def _embedded_config(data: bytes) -> str | None:
    if _word(data, _PROTOCOL_OFFSET) < _PAYLOAD_PROTOCOL:
        return None
    offset, length = struct.unpack_from("<II", data, _PAYLOAD_OFFSET)
    vmlinux = _decompress(data[_setup_size(data) + offset :][:length])
    start = vmlinux.find(_IKCONFIG_START)
    if start < 0:
        return None
    packed = vmlinux[start + len(_IKCONFIG_START) :][:_IKCONFIG_LIMIT]
    try:
        config = zlib.decompressobj(wbits=31).decompress(packed, _IKCONFIG_LIMIT)
    except zlib.error:
        return None
    return config.decode(errors="replace")


def _decompress(payload: bytes) -> bytes:
    """The vmlinux in a payload; empty if it is damaged or its compression is unknown (lzo)."""
    for magic, unpack in _FORMATS.items():
        if payload.startswith(magic):
            try:
                return unpack(payload)
            except (zlib.error, lzma.LZMAError, zstandard.ZstdError, OSError, EOFError, ValueError):
                return b""
    return b""


def _lz4(payload: bytes) -> bytes:
    # Python has no lz4; who builds kernels here has the tool. The kernel's build appends the
    # unpacked size, about which lz4 complains after it has written everything: that is ignored.
    with contextlib.suppress(FileNotFoundError), tempfile.TemporaryFile() as packed:
        packed.write(payload)
        packed.seek(0)
        with subprocess.Popen(
            ["lz4", "-dc"], stdin=packed, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        ) as process:
            assert process.stdout
            unpacked = process.stdout.read(_VMLINUX_LIMIT)
            process.kill()
            return unpacked
    return b""


_FORMATS: dict[bytes, Callable[[bytes], bytes]] = {
    b"\x1f\x8b": lambda data: zlib.decompressobj(wbits=31).decompress(data, _VMLINUX_LIMIT),
    b"\x28\xb5\x2f\xfd": lambda data: (
        zstandard.ZstdDecompressor().stream_reader(data).read(_VMLINUX_LIMIT)
    ),
    b"\xfd7zXZ\0": lambda data: lzma.LZMADecompressor().decompress(data, _VMLINUX_LIMIT),
    b"\x5d\0\0": lambda data: lzma.LZMADecompressor(lzma.FORMAT_ALONE).decompress(
        data, _VMLINUX_LIMIT
    ),
    b"\x02\x21\x4c\x18": _lz4,
    b"BZh": lambda data: bz2.BZ2Decompressor().decompress(data, _VMLINUX_LIMIT),
}
