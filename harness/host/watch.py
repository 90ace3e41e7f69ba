# SPDX-License-Identifier: MIT
"""The host's kernel log and KVM's statistics over one run: what the guest did to its host."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from harness.host.state import KernelLog
from harness.record.console import ConsoleScanner, Splat

KVM_STATS = Path("/sys/kernel/debug/kvm")
"""Sums over all VMs (virt/kvm/kvm_main.c, kvm_init_debug()); root only."""


@dataclass(frozen=True)
class HostRecord:
    """What was seen; judged in harness.analysis.host."""

    kernel_log: str
    """"read", or why it could not be."""
    splats: tuple[Splat, ...]
    kvm_stats: Mapping[str, int]
    """Name -> change over the run, other VMs included; empty where they cannot be read."""


class HostWatch:
    """Watches from `with` on. A context manager."""

    def __init__(self, log: KernelLog | None = None, stats: Path = KVM_STATS) -> None:
        self._stats = stats
        self._before = read_stats(stats)
        self._scanner = ConsoleScanner()
        self._log = log or KernelLog()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._log.close()

    def record(self) -> HostRecord:
        """What has happened so far."""
        for line in self._log.lines():
            self._scanner.feed(line.encode() + b"\n", time.monotonic_ns())
        after = read_stats(self._stats)
        changes = {name: after[name] - self._before.get(name, 0) for name in after}
        return HostRecord(
            "read" if self._log.readable else self._log.why_not,
            self._scanner.splats,
            {name: change for name, change in changes.items() if change},
        )


def read_stats(directory: Path) -> dict[str, int]:
    """Every statistic of KVM that is one number."""
    found = {}
    with contextlib.suppress(OSError):
        for path in directory.iterdir():
            with contextlib.suppress(OSError, ValueError):
                if path.is_file():
                    found[path.name] = int(path.read_text())
    return found
