# SPDX-License-Identifier: MIT
"""The plugin that counts instructions by block of code, built for the QEMU at hand."""

from __future__ import annotations

from pathlib import Path

from harness.base.resources import carried
from harness.base.store import Store, digest_file, digest_of
from harness.image import hosttools
from harness.qemu.binary import Qemu

SOURCE = carried("guest-images") / "tcg-plugin" / "functions.c"
_LIBRARY = "functions.so"
_API_VERSIONS = (((11, 1), 7), ((9, 1), 3), ((9, 0), 2))
"""First QEMU -> the version of the plugin API (include/plugins/qemu-plugin.h) that it takes. A QEMU
that takes none of these says so when it loads the plugin."""


def build_plugin(store: Store, qemu: Qemu) -> Path:
    """The shared library for `-plugin file=`. Raises HostError where it cannot be compiled."""
    version = next((api for first, api in _API_VERSIONS if qemu.number >= first), 1)

    def build(directory: Path) -> None:
        hosttools.compile_shared(SOURCE, directory / _LIBRARY, API_VERSION=version)

    compiler = [hosttools.compiler_identity(), hosttools.SHARED_CFLAGS]
    digest = digest_of("tcg-plugin", digest_file(SOURCE), version, compiler)
    return store.fetch("tcg-plugin", digest, build) / _LIBRARY
