# SPDX-License-Identifier: MIT
"""A kernel to boot, and what can be asked for when one is built."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from harness.base.overhead import Overhead
from harness.base.store import digest_of
from harness.base.units import MIB
from harness.kernel.config import parse_config

DEFAULT_FRAGMENTS = ("base", "acceptance", "emulated", "trace", "hotplug")


@dataclass(frozen=True)
class KernelRequest:
    """What to build. `source` is any of the text forms (docs/kernels.md)."""

    source: str
    fragments: tuple[str, ...] = DEFAULT_FRAGMENTS
    """Names, or paths of files; later ones win."""
    patches: tuple[Path, ...] = ()
    """The user's patches or mailboxes, applied in order after the carried ones."""
    settings: tuple[str, ...] = ()
    """SYMBOL=value, after all fragments."""
    extra: tuple[str, ...] = ()
    """Fragments that were asked for beside those that the guest needs. They come last."""
    carried: bool = True
    """Apply the project's own patches (the emulated platform, the accept event)."""
    carried_fragments: tuple[str, ...] = ()
    """Fragments that ask for what these patches add and the guest can do without. Where any are
    named, so are the patches: a version that there are none for is built as it is."""


@dataclass(frozen=True)
class Kernel:
    bzimage: Path
    version: str
    """From the source's Makefile: "6.12.117"."""
    release: str
    """As `uname -r` prints it. Of a kernel built here it ends in the digest's first 8 digits."""
    digest: str
    config: Path | None
    """The .config; None if a prebuilt kernel does not embed it: its features are unknown."""
    modules: Path | None
    """lib/modules/RELEASE; None if there are no modules, or they were not found."""
    provenance: Mapping[str, object]

    def has(self, symbol: str) -> bool | None:
        """Whether the configuration sets `symbol` (without CONFIG_); None if nobody knows."""
        return None if self.config is None else self.setting(symbol) != "n"

    def setting(self, symbol: str) -> str:
        """The value of `symbol` (without CONFIG_), "n" where it is not set; "" if nobody knows."""
        return self._symbols.get(symbol, "n") if self.config else ""

    @functools.cached_property
    def _symbols(self) -> Mapping[str, str]:
        assert self.config
        return parse_config(self.config.read_text())


class BuildRecord(msgspec.Struct, frozen=True):
    """build.json of a kernel in the store, as far as others than its writer ask (build.py)."""

    source: Mapping[str, Any] = {}
    """Where the source came from."""
    objects_compiled: int | None = None
    sync_s: float = 0
    make_s: float = 0


def kernel_of_disk(disk: Path) -> Kernel:
    """Stands for the kernel inside a disk image, of which nothing is known until it boots."""
    facts = disk.stat()
    digest = digest_of("disk", str(disk), facts.st_size, facts.st_mtime_ns)
    provenance = {"disk": str(disk)}
    return Kernel(disk, "0.0", "in the disk image", digest, None, None, provenance)


def module_tree(root: Path, release: str) -> Path | None:
    """lib/modules/RELEASE below `root`, merged-usr or not."""
    places = (root / lib / "modules" / release for lib in ("lib", "usr/lib"))
    return next((place for place in places if place.is_dir()), None)


_OVERHEADS = {
    # A byte of shadow for eight (mm/kasan/, KASAN_SHADOW_SCALE_SHIFT). Beside it boots of 878M to
    # 3000M with the fragment `debug` took 60 to 150 MiB more than without: the image, and redzones.
    # They lasted 5 times as long, a first touch 13 times (6.12 under TCG); deadlines leave room for
    # more than half of that by themselves.
    "KASAN_GENERIC": Overhead(memory_share=1 / 8, memory_bytes=160 * MIB, time_factor=4.0),
    "PROVE_LOCKING": Overhead(time_factor=2.0),
    "DEBUG_PAGEALLOC_ENABLE_DEFAULT": Overhead(time_factor=2.0),
}


def overhead(kernel: Kernel) -> Overhead:
    """What the checks that `kernel` is configured with take of its guests, as far as that is known.
    Shares of memory add up; of the factors the largest counts."""
    found = [cost for symbol, cost in _OVERHEADS.items() if kernel.has(symbol)]
    return Overhead(
        sum(cost.memory_share for cost in found),
        sum(cost.memory_bytes for cost in found),
        max([1.0, *(cost.time_factor for cost in found)]),
    )
