# SPDX-License-Identifier: MIT
"""What a test needs of its guest, as said in its `acceptance` mark."""

from __future__ import annotations

import dataclasses
import enum
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from harness.base.guest_options import guest_option, guest_options, read_options, with_options
from harness.base.options import Door, choice, size, unknown
from harness.base.overhead import Overhead
from harness.base.spec import AcceptMode, GuestSpec, TargetName
from harness.base.status import UsageError
from harness.base.units import MIB, PAGE_SIZE, UNIT_SIZE
from harness.record.console import Kind
from harness.targets.registry import target_for

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
    """Arguments of `@pytest.mark.acceptance(...)`: what to boot, what must be there, what is
    asked."""

    guest: Mapping[str, Any] = field(default_factory=dict)
    """The guest options among the mark's arguments; all others are as the command line says."""
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
        own = {f.name for f in dataclasses.fields(cls)} - {"guest"}
        options = {option.name for option in guest_options(Door.MARK)}
        for name in arguments.keys() - own - options:
            raise unknown("the acceptance mark has no argument", name, [*options, *own])
        guest = read_options({n: v for n, v in arguments.items() if n in options})
        need = cls(guest, **{n: v for n, v in arguments.items() if n in own})
        if need.ahead:
            need = dataclasses.replace(need, large_calls=True)
        for kind in need.splats:
            choice(Kind, kind, "kind of splat")
        return need

    @property
    def unaccepted_pages(self) -> int:
        """`unaccepted` in pages; 0 where the guest is to have none."""
        if self.guest.get("accept") is AcceptMode.EAGER or self.unaccepted == "0":
            return 0
        return size(self.unaccepted, "unaccepted") // PAGE_SIZE

    @property
    def expected_splats(self) -> frozenset[Kind]:
        """The kinds that are not a failure in this test."""
        return frozenset(Kind(kind) for kind in self.splats)

    def cannot_on(self, name: TargetName) -> str:
        """Why guests of the target `name` cannot be what the test wants; "" where they can."""
        hotplug = self.guest.keys() & {"maxmem", "virtio_mem", "hotplug"}
        if hotplug and target_for(name).why_no_hotplug(GuestSpec(target=name)):
            return f"not on {name.value}: the test wants hot-plugged memory"
        wants = [guest_option(option).flag for option in self.guest if self._refused(option, name)]
        return f"not on {name.value}: the test wants {', '.join(wants)}" if wants else ""

    @staticmethod
    def _refused(name: str, target: TargetName) -> bool:
        option = guest_option(name)
        return not option.applies_to(target) and not option.row.wish

    def spec(self, base: GuestSpec) -> GuestSpec:
        """`base`, the command line's guest, with what this test wants otherwise."""
        target = target_for(base.target)
        hardware = target.on_hardware(base)
        wanted = {
            name: value
            for name, value in self.guest.items()
            if guest_option(name).applies_to(target.name)
            and not (hardware and guest_option(name).row.wish)
        }
        if "memory" in wanted:
            wanted["memory"] = target.memory_for(base, wanted["memory"])
        if "append" in wanted:
            wanted["append"] = (*wanted["append"], *base.extra_cmdline)
        if "layers" in wanted:
            wanted["layers"] = tuple(dict.fromkeys((*base.layers, *wanted["layers"])))
        return with_options(base, wanted)


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
