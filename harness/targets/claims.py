# SPDX-License-Identifier: MIT
"""What a guest takes of its host, and what the host has of it."""

import psutil

from harness.base.spec import GuestSpec
from harness.base.units import GIB
from harness.host.reserve import Claim, Supply, needed_memory
from harness.targets.base import HostFacts
from harness.targets.registry import target_for

_HOST_KEEPS = 2 * GIB


def claim_of(spec: GuestSpec) -> Claim:
    """What a guest takes of its host: a confidential one all its memory, unswappable, and a key."""
    if target_for(spec.target).on_hardware(spec):
        return Claim(memory=spec.memory, keys=1)
    return Claim(memory=needed_memory(spec))


def supply_for(spec: GuestSpec, host: HostFacts) -> Supply:
    """What confidential guests can share. Emulated ones are not counted: what they never touch
    costs nothing, and check_room() has looked at what is free."""
    if not target_for(spec.target).on_hardware(spec):
        return Supply()
    total = psutil.virtual_memory().total
    return Supply(memory=max(total - _HOST_KEEPS, 0), keys=host.keys)
