# SPDX-License-Identifier: MIT
"""From a spec to the facts of this host that its command line needs, or to why it cannot run."""

from dataclasses import replace

from harness.base.emulation import Route
from harness.base.progress import Progress, silent
from harness.base.spec import Accel, GuestSpec
from harness.base.store import Store
from harness.host.accel import choose_accel
from harness.host.firmware import PLAIN, FirmwareSource, under_tcg
from harness.host.reserve import check_room
from harness.host.view import HostView, LiveHost
from harness.qemu.binary import find_qemu
from harness.qemu.build import platform_qemu
from harness.targets.base import HostFacts
from harness.targets.emulated import find_firmware
from harness.targets.ready import DEMANDS, Readiness, examine_target, require
from harness.targets.registry import target_for


def host_facts(
    spec: GuestSpec, store: Store, view: HostView | None = None, progress: Progress = silent
) -> HostFacts:
    """What shapes the command line of `spec` here. Raises HostError (MISS) where it cannot run.

    Cheap but for the first time KVM is tried, firmware is fetched, or our own QEMU is built: to be
    asked before a kernel is built for minutes.
    """
    demand = DEMANDS.get(spec.target)
    source = FirmwareSource(demand or PLAIN, view or LiveHost(), store, progress)
    if demand:
        return _confidential(spec, source)
    image = source.named(spec.confidential.firmware)
    qemu = find_qemu()
    check_room(spec)
    firmware = None
    if spec.emulation.route is Route.EFI:
        firmware = image or find_firmware()
    accel, reason = choose_accel(spec.accel, spec.clock, qemu, store)
    return HostFacts(qemu, accel, reason, firmware)


def _confidential(spec: GuestSpec, source: FirmwareSource) -> HostFacts:
    if spec.under_tcg:
        why = "asked for" if spec.accel is Accel.TCG else "the icount clock needs TCG"
        return _under_tcg(spec, source, why)
    image, disk = source.named(spec.confidential.firmware), spec.confidential.disk is not None
    ready = examine_target(spec.target, source.view, image=image, disk=disk)
    if spec.accel is Accel.AUTO and (blocker := ready.blocker):
        title = target_for(spec.target).title
        why = f"no {title} hardware: {blocker.name}: {blocker.evidence}"
        return _under_tcg(spec, source, why)
    return _hardware(spec, require(ready))


def _under_tcg(spec: GuestSpec, source: FirmwareSource, why: str) -> HostFacts:
    check_room(spec)
    qemu = platform_qemu(spec.target.value, source.store, source.progress)
    emulated = replace(source, demand=under_tcg(source.demand))
    return HostFacts(qemu, Accel.TCG, why, emulated.find(spec.confidential.firmware).path)


def _hardware(spec: GuestSpec, ready: Readiness) -> HostFacts:
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
