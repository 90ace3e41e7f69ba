# SPDX-License-Identifier: MIT
"""The `minimal` guest image (compressed cpio layers) and QEMU's plugin, built once."""

import hashlib
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import zstandard

from harness.base.resources import carried
from harness.base.status import UsageError
from harness.base.store import Store, digest_file, digest_of
from harness.image import cpio, hosttools, layers, modules
from harness.image.cpio import Node
from harness.image.keys import Keys, write_secret
from harness.qemu.binary import Qemu

KIND = "image"
RECIPE_VERSION = 2
"""Raise it when the same inputs are to give another layer."""
ZSTD_LEVEL = 19
WINDOW_LOG = 20
"""1 MiB: the kernel's decompressor allocates the window, which in a guest whose memory is
unaccepted is not free (lib/decompress_unzstd.c)."""
_FILE = "layer.cpio.zst"
PLUGIN = carried("guest-images") / "tcg-plugin" / "functions.c"
_API_VERSIONS = (((11, 1), 7), ((9, 1), 3), ((9, 0), 2))
"""First QEMU -> the version of the plugin API (include/plugins/qemu-plugin.h) that it takes. A QEMU
that takes none of these says so when it loads the plugin."""


@dataclass(frozen=True)
class Layer:
    name: str
    digest: str
    path: Path


@dataclass(frozen=True)
class Image:
    """The layers of an image, in the order the kernel unpacks them: concatenated archives one after
    the other (init/initramfs.c, unpack_to_rootfs)."""

    layers: tuple[Layer, ...]

    @property
    def digest(self) -> str:
        return digest_of("image", [layer.digest for layer in self.layers])


def build_image(store: Store, layers: Sequence[str] = (), modules: Path | None = None) -> Image:
    """The base image with the optional `layers` and, for a distribution kernel, the modules that
    it needs from `modules`, its /lib/modules/VERSION. Builds what the store lacks."""
    built = [_base(store)]
    for name in dict.fromkeys(layers):  # order kept, duplicates dropped
        built.append(_optional(store, name))
    if modules is not None:
        built.append(_modules(store, modules))
    return Image(tuple(built))


def build_program(store: Store) -> Path:
    """Our static program alone (`cvm`), for guests that bring their own userspace."""
    digest = digest_of("program", _digests(layers.base_inputs()), hosttools.compiler_identity())

    def build(directory: Path) -> None:
        hosttools.compile_static(layers.sources(), directory / "cvm")

    return store.fetch(KIND, digest, build) / "cvm"


def build_plugin(store: Store, qemu: Qemu) -> Path:
    """The shared library for QEMU's `-plugin file=` that counts instructions by block of code.
    Raises HostError where it cannot be compiled."""
    version = next((api for first, api in _API_VERSIONS if qemu.number >= first), 1)

    def build(directory: Path) -> None:
        hosttools.compile_shared(PLUGIN, directory / "functions.so", API_VERSION=version)

    compiler = [hosttools.compiler_identity(), hosttools.SHARED_CFLAGS]
    digest = digest_of("tcg-plugin", digest_file(PLUGIN), version, compiler)
    return store.fetch("tcg-plugin", digest, build) / "functions.so"


def compose_initrd(image: Image, keys: Keys, out: Path) -> Path:
    """Write the initrd of one run: its layers, then the keys. Mode 0600: it holds a secret."""
    paths = (*(layer.path for layer in image.layers), keys.layer)
    return write_secret(out, *(path.read_bytes() for path in paths))


def _base(store: Store) -> Layer:
    def nodes() -> list[Node]:
        with tempfile.TemporaryDirectory() as directory:
            program = Path(directory) / "cvm"
            hosttools.compile_static(layers.sources(), program)
            return layers.base(program)

    recipe = [_digests(layers.base_inputs()), hosttools.compiler_identity()]
    return _layer(store, "base", recipe, nodes)


def _optional(store: Store, name: str) -> Layer:
    if name not in layers.OPTIONAL:
        known = ", ".join(layers.OPTIONAL)
        raise UsageError(f"unknown image layer {name!r}", hint=f"known layers: {known}")
    nodes = layers.optional(name)
    inputs = [(node.path, node.mode, hashlib.sha256(node.data).hexdigest()) for node in nodes]
    return _layer(store, name, inputs, lambda: nodes)


def _modules(store: Store, directory: Path) -> Layer:
    tree = modules.ModuleTree(directory)
    order = tree.chosen()
    inputs = [tree.version, order, _digests([tree.files[name] for name in order])]
    return _layer(store, "modules", inputs, lambda: modules.nodes(tree))


def _layer(store: Store, name: str, inputs: object, nodes: Callable[[], list[Node]]) -> Layer:
    packing = [RECIPE_VERSION, zstandard.ZSTD_VERSION, ZSTD_LEVEL, WINDOW_LOG]
    digest = digest_of(name, packing, inputs)

    def build(directory: Path) -> None:
        packed = compress(cpio.archive(nodes()))
        # Padded, so that cat makes an initrd: an uncompressed archive may follow.
        (directory / _FILE).write_bytes(packed + bytes(-len(packed) % cpio.ALIGNMENT))

    path = store.fetch(KIND, digest, build)
    return Layer(name, digest, path / _FILE)


def compress(data: bytes) -> bytes:
    """One zstd frame that the kernel can unpack with little memory; one thread, so reproducible."""
    parameters = zstandard.ZstdCompressionParameters.from_level(
        ZSTD_LEVEL, source_size=len(data), window_log=WINDOW_LOG, threads=0
    )
    return zstandard.ZstdCompressor(compression_params=parameters).compress(data)


def _digests(paths: Sequence[Path]) -> list[list[str]]:
    return [[path.name, digest_file(path)] for path in paths]
