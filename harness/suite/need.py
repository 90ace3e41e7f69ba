# SPDX-License-Identifier: MIT
"""What a test needs of its guest, as said in its `acceptance` mark."""

from __future__ import annotations

import dataclasses
import enum
import math
import re
from dataclasses import dataclass
from typing import Any

from harness.base.options import choice, size
from harness.base.overhead import Overhead
from harness.base.spec import (
    MIN_HARDWARE_MEMORY,
    AcceptMode,
    AutoOnline,
    GuestSpec,
    HotplugPolicy,
    Route,
    TargetName,
    cost_model,
)
from harness.base.status import UsageError
from harness.base.units import MIB, PAGE_SIZE, UNIT_SIZE
from harness.record.console import Kind
from harness.targets.choose import DEFAULT_SLOTS

_SPLIT = 0xB000_0000
"""From this size on QEMU's q35 puts memory above 4 GiB (hw/i386/pc_q35.c, pc_q35_init(), 7.2)."""
_CRASH = re.compile(r"crashkernel=(\d{1,6})M")


class Tier(enum.IntEnum):
    """How long a suite may take; each tier includes those before it."""

    QUICK = 0
    FULL = 1
    SOAK = 2

    @classmethod
    def parse(cls, text: str) -> Tier:
        """The tier called `text`. Raises UsageError."""
        try:
            return cls[text.upper()]
        except KeyError:
            known = ", ".join(tier.name.lower() for tier in cls)
            raise UsageError(f"unknown tier {text!r}", hint=f"use one of {known}") from None


@dataclass(frozen=True)
class Need:
    """Arguments of `@pytest.mark.acceptance(...)`: what to boot, what must be there, what is asked.

    Fields of the guest that are None keep what the command line says.
    """

    memory: str | None = None
    vcpus: int | None = None
    accept: str | None = None
    route: str | None = None
    cost: str | None = None
    numa_nodes: int | None = None
    strict: bool | None = None
    start: str | None = None
    """First byte that may be unaccepted, of the emulated platform."""
    maxmem: str | None = None
    """The guest can grow to this by hotplug."""
    slots: int | None = None
    virtio_mem: str | None = None
    hotplug: str | None = None
    """When the emulated platform's hot-added memory is accepted."""
    memmap_on_memory: bool | None = None
    auto_online: str | None = None
    append: tuple[str, ...] = ()
    layers: tuple[str, ...] = ()
    unaccepted: str = "64M"
    """Memory that must be unaccepted when the test starts, or there is nothing to test."""
    features: tuple[str, ...] = ()
    """What the guest must have (harness/suite/features.py), or the test is a SKIP with reason."""
    fresh: bool = False
    """The test wants a guest that no other test has used."""
    spoils: bool = False
    """The guest is of no use afterwards."""
    splats: tuple[str, ...] = ()
    """Kinds of console report that the test causes on purpose, e.g. "oom"."""
    reclaim: bool = False
    """The test causes reclaim on purpose."""
    large_calls: bool = False
    """The test has contiguous ranges accepted in one call."""
    ahead: bool = False
    """The test accepts memory that stays on the lists of unaccepted blocks.

    Only tests that do the same can use the guest afterwards: lists and table no longer agree.
    """
    grows: bool = False
    """The test adds unaccepted memory."""

    @classmethod
    def of(cls, arguments: dict[str, Any]) -> Need:
        """From a mark's keyword arguments. Raises UsageError for one it does not know."""
        known = {field.name for field in dataclasses.fields(cls)}
        if unknown := arguments.keys() - known:
            raise UsageError(f"the acceptance mark has no argument {', '.join(sorted(unknown))}")
        need = cls(**arguments)
        if need.ahead:
            need = dataclasses.replace(need, large_calls=True)
        for kind in need.splats:
            choice(Kind, kind, "kind of splat")
        return need

    @property
    def unaccepted_pages(self) -> int:
        """`unaccepted` in pages; 0 where the guest is to have none."""
        if self.accept == AcceptMode.EAGER.value or self.unaccepted == "0":
            return 0
        return size(self.unaccepted, "unaccepted") // PAGE_SIZE

    @property
    def expected_splats(self) -> frozenset[Kind]:
        """The kinds that are not a failure in this test."""
        return frozenset(Kind(kind) for kind in self.splats)

    def _growth(self) -> dict[str, Any]:
        """Fields of the guest that have to do with hotplug."""
        fields: dict[str, Any] = {}
        if self.maxmem is not None:
            fields["maxmem"] = size(self.maxmem, "maxmem")
            fields["slots"] = DEFAULT_SLOTS if self.slots is None else self.slots
        if self.virtio_mem is not None:
            fields["virtio_mem"] = size(self.virtio_mem, "virtio_mem")
        if self.memmap_on_memory is not None:
            fields["memmap_on_memory"] = self.memmap_on_memory
        if self.auto_online is not None:
            fields["auto_online"] = choice(AutoOnline, self.auto_online, "auto-online policy")
        return fields

    def cannot_on(self, target: TargetName) -> str:
        """Why guests of `target` cannot be what the test wants; "" where they can."""
        if target is TargetName.EMULATED:
            return ""
        wants = {
            "hot-plugged memory": self.maxmem or self.virtio_mem or self.hotplug,
            "a boot route of the emulated platform": self.route,
            "to say where unaccepted memory begins": self.start,
        }
        return next(
            (f"not on {target.value}: the test wants {what}" for what, it in wants.items() if it),
            "",
        )

    def spec(self, base: GuestSpec) -> GuestSpec:
        """`base`, the command line's guest, with what this test wants otherwise."""
        emulation = base.emulation
        if self.route is not None:
            emulation = dataclasses.replace(emulation, route=choice(Route, self.route, "route"))
        if self.cost is not None:
            emulation = dataclasses.replace(emulation, cost=cost_model(self.cost))
        if self.strict is not None:
            emulation = dataclasses.replace(emulation, strict=self.strict)
        if self.start is not None:
            start = size(self.start, "start") // MIB * MIB
            emulation = dataclasses.replace(emulation, start=start)
        if self.hotplug is not None:
            policy = choice(HotplugPolicy, self.hotplug, "hotplug policy")
            emulation = dataclasses.replace(emulation, hotplug=policy)
        changes: dict[str, Any] = {"emulation": emulation, **self._growth()}
        if self.memory is not None:
            changes["memory"] = size(self.memory, "memory")
            if base.target is not TargetName.EMULATED:
                # As much above 4 GiB, beside the 2 GiB below, which the firmware accepts itself.
                asked = changes["memory"] + MIN_HARDWARE_MEMORY // 2
                changes["memory"] = max(asked, MIN_HARDWARE_MEMORY)
        if self.vcpus is not None:
            changes["vcpus"] = self.vcpus
        if self.accept is not None:
            changes["accept"] = choice(AcceptMode, self.accept, "accept mode")
        if self.numa_nodes is not None:
            changes["numa_nodes"] = self.numa_nodes
        if self.append:
            changes["extra_cmdline"] = (*self.append, *base.extra_cmdline)
        if self.layers:
            changes["layers"] = tuple(dict.fromkeys((*base.layers, *self.layers)))
        return dataclasses.replace(base, **changes)


def with_room_for(spec: GuestSpec, overhead: Overhead) -> GuestSpec:
    """`spec` with as much more memory as the kernel's own checks take of it.

    So with the memory set apart for a crash kernel, which is the same kernel once more. A guest
    keeps its zones: no memory above 4 GiB where there would be none without.
    """
    grain = UNIT_SIZE * spec.numa_nodes
    more = math.ceil((overhead.gross(spec.memory) - spec.memory) / grain) * grain
    if spec.memory < _SPLIT <= spec.memory + more:
        more = (_SPLIT - 1 - spec.memory) // grain * grain
    return dataclasses.replace(
        spec,
        memory=spec.memory + more,
        maxmem=None if spec.maxmem is None else spec.maxmem + more,
        extra_cmdline=tuple(
            _CRASH.sub(lambda found: _crash_memory(found[1], overhead), word)
            for word in spec.extra_cmdline
        ),
    )


def _crash_memory(mib: str, overhead: Overhead) -> str:
    return f"crashkernel={math.ceil(overhead.gross(int(mib) * MIB) / MIB)}M"
