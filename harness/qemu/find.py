# SPDX-License-Identifier: MIT
"""Which QEMU runs a guest of an emulated platform; `binary.find_qemu()` answers for all others."""

from __future__ import annotations

import os

from harness.base.progress import Progress, silent
from harness.base.status import HostError
from harness.base.store import Store
from harness.qemu.binary import Qemu, find_qemu, inspect
from harness.qemu.build import ensure_qemu
from harness.qemu.platforms import PLATFORMS, emulated_platforms


def platform_qemu(target: str, store: Store, progress: Progress = silent) -> Qemu:
    """$CVM_HARNESS_QEMU, the QEMU on PATH if it has the platform of `target`, or else our own.

    Builds our own if it is not built. Raises HostError if $CVM_HARNESS_QEMU lacks the platform, or
    as `build_qemu()` does.
    """
    if os.environ.get("CVM_HARNESS_QEMU"):
        asked = find_qemu()
        if target not in emulated_platforms(asked.binary):
            raise HostError(
                f"{asked.binary} cannot emulate {target}: it has no {PLATFORMS[target]}",
                hint="unset CVM_HARNESS_QEMU, or set it to what `cvm-harness build-qemu` prints",
            )
        return asked
    try:
        on_path = find_qemu()
        if target in emulated_platforms(on_path.binary):
            return on_path
    except HostError:  # none, or one that does not run: ours needs neither
        pass
    return inspect(ensure_qemu(store, progress).binary)
