# SPDX-License-Identifier: MIT
"""TDX and SEV-SNP guests on our QEMU, which emulates their platforms under TCG.

Kernel, firmware and everything of arch/x86's acceptance are what runs on hardware; what stands in
is the TDX module or the SNP firmware, RMP and GHCB host (docs/tcg-platforms.md).
"""

import json

from harness.base.confidential import OnViolation, PageLevel
from harness.base.spec import Clock, GuestSpec, TargetName
from harness.base.units import MIB
from harness.guest.machine import Machine
from harness.targets import confidential as common
from harness.targets.base import BootFiles, HostFacts
from harness.targets.emulated import (
    REPEATABLE,
    accelerator,
    accept_at_boot_s,
    memory_backend,
    time_scale,
)
from harness.targets.shape import memory_backends, memory_option, sockets

OBJECT = "cgs0"
_FIRMWARE_S = 20.0
"""OVMF takes some 4 to 8 s under TCG before it starts the kernel."""


def machine(
    spec: GuestSpec,
    files: BootFiles,
    host: HostFacts,
    *,
    cpu: str,
    options: tuple[str, ...],
    properties: dict[str, object],
    virtio: str = "",
) -> Machine:
    """QEMU's arguments. `cpu`, machine `options` and object `properties` are the platform's."""
    low = (
        (f"max-ram-below-4g={common.LOW_UNDER_TCG // MIB}M",)
        if spec.memory < common.LEAST_MEMORY
        else ()
    )
    guest_object = {**properties, "id": OBJECT, **_common(spec)}
    args: common.Args = [
        *accelerator(spec, host),
        ("-cpu", spec.confidential.cpu_model or cpu),
        # No AHCI: firmware leaves its receive buffer set up in a page that is private again later,
        # and QEMU maps it anew when it loads the state of a saved guest (hw/ide/ahci.c).
        common.machine_option(spec, "smm=off", "vmport=off", "sata=off", *options, *low),
        ("-smp", f"{spec.vcpus},sockets={sockets(spec)}"),
        ("-m", memory_option(spec)),
        *memory_backends(spec, memory_backend),
        ("-object", json.dumps(guest_object, separators=(",", ":"))),
        common.firmware_option(files),
    ]
    if files.plugin:
        args.append(("-plugin", f"file={files.plugin}"))
    args += common.boot_options(spec, files, virtio, kernel_words(spec))
    scale = time_scale(spec, host) * (_INTERCEPTED if spec.platform.intercepts else 1.0)
    return Machine(
        binary=host.qemu.binary,
        args=tuple(args),
        virtio_options=virtio,
        time_scale=scale,
        accept_at_boot_s=accept_at_boot_s(spec) + _FIRMWARE_S,
        witness=OBJECT,
    )


_INTERCEPTED = 2.0


def kernel_words(spec: GuestSpec) -> tuple[str, ...]:
    """What the guest's kernel is told beside what it is told on hardware."""
    return (
        # Until the console is up a kernel that dies is mute otherwise; the early one is left then.
        "earlyprintk=ttyS0",
        "no_timer_check",  # as on the emulated target
        # Every processor with TDX reports RDCL_NO, so that Linux leaves page table isolation off.
        # TCG's does not, and flushes its TLB at each entry and exit: memory is touched three times
        # as fast without. For AMD's name Linux leaves it off by itself.
        *(("pti=off",) if spec.target is TargetName.TDX else ()),
        *(REPEATABLE if spec.clock is Clock.ICOUNT else ()),
    )


def _common(spec: GuestSpec) -> dict[str, object]:
    """Properties of both platforms' objects (QEMU, qapi/cgs-tcg.json), where they are not QEMU's
    own defaults."""
    asked, cost = spec.platform, spec.emulation.cost
    found: dict[str, object] = {}
    policy = asked.on_violation if spec.emulation.strict else OnViolation.REPORT
    if policy is not OnViolation.STOP:
        found["on-violation"] = policy.value
    if asked.intercepts:
        found["intercepts"] = True
    if asked.level is not PageLevel.LARGE:
        found["max-page-level"] = [*PageLevel].index(asked.level)
    if cost.ns_per_unit:
        found["accept-ns-4k"] = cost.ns_per_page
        found["accept-ns-2m"] = cost.ns_per_unit
        found["accept-ns-1g"] = cost.ns_per_unit * 512
    if asked.faults:
        found["faults"] = [
            {"kind": fault.kind.value, "nth": fault.nth, "count": fault.count}
            | ({} if fault.gpa is None else {"gpa": fault.gpa})
            for fault in asked.faults
        ]
    return found
