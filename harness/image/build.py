# SPDX-License-Identifier: MIT
"""Build the `minimal` guest image: compressed cpio layers, each cached under its inputs' digest.

The kernel unpacks concatenated archives one after the other (init/initramfs.c, unpack_to_rootfs),
so an initrd is its layers' files in a row, and a run adds only its few hundred bytes of keys.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import zstandard

from harness.base.status import UsageError
from harness.base.store import Store, digest_file, digest_of
from harness.image import cpio, hosttools, layers, modules
from harness.image.cpio import Node
from harness.image.keys import Keys

KIND = "image"
RECIPE_VERSION = 2
"""Raise it when the same inputs are to give another layer."""
ZSTD_LEVEL = 19
WINDOW_LOG = 20
"""1 MiB: the kernel's decompressor allocates the window, which in a guest whose memory is
unaccepted is not free (lib/decompress_unzstd.c)."""
_FILE = "layer.cpio.zst"


@dataclass(frozen=True)
class Layer:
    """One built layer."""

    name: str
    digest: str
    path: Path


@dataclass(frozen=True)
class Image:
    """The layers of an image, in the order the kernel unpacks them."""

    layers: tuple[Layer, ...]

    @property
    def digest(self) -> str:
        """Names the image as a whole."""
        return digest_of("image", [layer.digest for layer in self.layers])

    @property
    def size(self) -> int:
        """Bytes of all layers, compressed."""
        return sum(layer.path.stat().st_size for layer in self.layers)


def build_image(
    store: Store,
    layers: Sequence[str] = (),
    modules: Path | None = None,
    progress: Callable[[str], None] = lambda message: None,
) -> Image:
    """The base image with the optional `layers` and, for a distribution kernel, the modules that
    it needs from `modules`, its /lib/modules/VERSION. Builds what the store lacks."""
    built = [_base(store, progress)]
    for name in dict.fromkeys(layers):  # order kept, duplicates dropped
        built.append(_optional(store, name, progress))
    if modules is not None:
        built.append(_modules(store, modules, progress))
    return Image(tuple(built))


def build_program(store: Store, progress: Callable[[str], None] = lambda message: None) -> Path:
    """Our static program alone (`cvm`), for guests that bring their own userspace."""
    digest = digest_of("program", _digests(layers.base_inputs()), hosttools.compiler_identity())

    def build(directory: Path) -> None:
        progress("building the guest's program")
        hosttools.compile_static(layers.sources(), directory / "cvm")

    return store.fetch(KIND, digest, build) / "cvm"


def compose_initrd(image: Image, keys: Keys, out: Path) -> Path:
    """Write the initrd of one run: its layers, then the keys. Mode 0600: it holds a secret."""
    out.unlink(missing_ok=True)
    descriptor = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        for path in (*(layer.path for layer in image.layers), keys.layer):
            file.write(path.read_bytes())
    return out


def _base(store: Store, progress: Callable[[str], None]) -> Layer:
    inputs = _digests(layers.base_inputs())

    def nodes() -> list[Node]:
        with tempfile.TemporaryDirectory() as directory:
            program = Path(directory) / "cvm"
            hosttools.compile_static(layers.sources(), program)
            return layers.base(program)

    recipe = [inputs, hosttools.compiler_identity()]
    return _layer(store, "base", recipe, nodes, progress)


def _optional(store: Store, name: str, progress: Callable[[str], None]) -> Layer:
    if name not in layers.OPTIONAL:
        known = ", ".join(layers.OPTIONAL)
        raise UsageError(f"unknown image layer {name!r}", hint=f"known layers: {known}")
    inputs = _digests(layers.optional_inputs(name))
    return _layer(store, name, inputs, lambda: layers.optional(name), progress)


def _modules(store: Store, directory: Path, progress: Callable[[str], None]) -> Layer:
    tree = modules.ModuleTree(directory)
    order = tree.chosen()
    inputs = [tree.version, order, _digests([tree.files[name] for name in order])]
    return _layer(store, "modules", inputs, lambda: modules.nodes(tree), progress)


def _layer(
    store: Store,
    name: str,
    inputs: object,
    nodes: Callable[[], list[Node]],
    progress: Callable[[str], None],
) -> Layer:
    packing = [RECIPE_VERSION, zstandard.ZSTD_VERSION, ZSTD_LEVEL, WINDOW_LOG]
    digest = digest_of(name, packing, inputs)

    def build(directory: Path) -> None:
        progress(f"building image layer {name}")
        packed = compress(cpio.archive(nodes()))
        (directory / _FILE).write_bytes(cpio.aligned(packed))  # so that cat makes an initrd

    path = store.fetch(
        KIND, digest, build, waiting=lambda: progress(f"waiting for image layer {name}")
    )
    return Layer(name, digest, path / _FILE)


def compress(data: bytes) -> bytes:
    """One zstd frame that the kernel can unpack with little memory; one thread, so reproducible."""
    parameters = zstandard.ZstdCompressionParameters.from_level(
        ZSTD_LEVEL, source_size=len(data), window_log=WINDOW_LOG, threads=0
    )
    return zstandard.ZstdCompressor(compression_params=parameters).compress(data)


def _digests(paths: Sequence[Path]) -> list[list[str]]:
    return [[path.name, digest_file(path)] for path in paths]
