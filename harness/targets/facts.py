# SPDX-License-Identifier: MIT
"""From a spec to the facts of this host that its command line needs, or to why it cannot run."""

from __future__ import annotations

from pathlib import Path

from harness.base.progress import silent
from harness.base.spec import Accel, GuestSpec, Route
from harness.base.store import Store
from harness.host.accel import choose_accel
from harness.host.firmware import PLAIN
from harness.host.firmware_package import named_image
from harness.host.memory import check_room
from harness.host.ready import DEMANDS, examine_target, require
from harness.host.view import HostView, LiveHost
from harness.qemu.binary import find_qemu
from harness.targets.base import HostFacts
from harness.targets.emulated import find_firmware
from harness.targets.registry import target_for


def host_facts(spec: GuestSpec, store: Store, view: HostView | None = None) -> HostFacts:
    """What shapes the command line of `spec` here. Raises HostError (MISS) where it cannot run.

    Cheap but for the first time KVM is tried or firmware is fetched: to be asked before a kernel is
    built for minutes.
    """
    view = view or LiveHost()
    demand = DEMANDS.get(spec.target, PLAIN)
    image = named_image(spec.confidential.firmware, demand, view, store, silent)
    if target_for(spec.target).on_hardware(spec):
        return _hardware(spec, view, image)
    qemu = find_qemu()
    check_room(spec)
    firmware = None
    if spec.emulation.route is Route.EFI:
        firmware = image or find_firmware()
    accel, reason = choose_accel(spec.accel, spec.clock, qemu, store)
    return HostFacts(qemu, accel, reason, firmware)


def _hardware(spec: GuestSpec, view: HostView, image: Path | None) -> HostFacts:
    disk = spec.confidential.disk is not None
    ready = require(examine_target(spec.target, view, image=image, disk=disk))
    assert ready.firmware is not None, "nothing is missing, so firmware was found"
    check_room(spec)
    keys = (ready.snp.asids if ready.snp else 0) or (ready.tdx.keyids if ready.tdx else 0)
    return HostFacts(
        find_qemu(),
        Accel.KVM,
        f"{spec.target.value} guests need it",
        ready.firmware.path,
        ready.firmware.kernel_hashes,
        ready.snp,
        keys or None,
    )
