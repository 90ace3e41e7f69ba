# SPDX-License-Identifier: MIT
"""From option texts to a guest's spec; "auto" takes the best target that this host can run."""

from __future__ import annotations

import shlex
from pathlib import Path

from harness.base.options import choice, existing_file, number, size
from harness.base.spec import (
    MIN_HARDWARE_MEMORY,
    SNP_POLICY,
    Accel,
    AcceptMode,
    AutoOnline,
    Clock,
    Confidential,
    Emulation,
    GuestSpec,
    HotplugPolicy,
    HugePages,
    KernelHashes,
    Route,
    TargetName,
    cost_model,
)
from harness.base.units import GIB
from harness.host.ready import best_target

DEFAULT_SLOTS = 8
"""DIMM slots of a guest that has --maxmem."""
DEFAULT_MEMORY = {
    TargetName.EMULATED: 4 * GIB,
    # 2 GiB of it lie below 4 GiB and are accepted by the firmware.
    TargetName.SNP: 16 * GIB,
    TargetName.TDX: 16 * GIB,
}
"""Bytes of a guest's memory where nothing else is asked for."""


def choose_target(text: str, *, emulated: bool = False) -> tuple[TargetName, str]:
    """The target meant by `text`, and why: "auto" takes the best this host can do.

    `emulated`: something else was asked for that only an emulated guest can do.
    """
    if text != "auto":
        return choice(TargetName, text, "target"), "asked for"
    if emulated:
        return TargetName.EMULATED, "auto: the options are those of an emulated guest"
    return best_target()


def guest_spec(
    *,
    target: str = "auto",
    memory: str | None = None,
    vcpus: int = 2,
    accept: str = "lazy",
    accel: str = "auto",
    clock: str = "wall",
    route: str = "direct",
    cost: str = "free",
    strict: bool = True,
    zero: bool = False,
    numa_nodes: int = 1,
    trace: bool = True,
    by_function: bool = False,
    append: str = "",
    layers: tuple[str, ...] = (),
    maxmem: str | None = None,
    slots: int | None = None,
    virtio_mem: str | None = None,
    hotplug: str = "lazy",
    memmap_on_memory: bool = False,
    auto_online: str = "online_movable",
    firmware: str | Path | None = None,
    disk: str | Path | None = None,
    snp_policy: str | None = None,
    guest_debug: bool = False,
    kernel_hashes: str = "auto",
    cpu_model: str = "",
    huge_pages: str = "none",
) -> GuestSpec:
    """A GuestSpec from option texts. Raises UsageError naming what is wrong.

    Without `memory` it is what suits the target.
    """
    bytes_asked = size(memory, "--memory") if memory else None
    special = (
        (route, cost, clock, zero, maxmem) != ("direct", "free", "wall", False, None)
        or accel == Accel.TCG.value
        or (bytes_asked is not None and bytes_asked < MIN_HARDWARE_MEMORY)
    )
    chosen = choose_target(target, emulated=special)[0]
    return GuestSpec(
        target=chosen,
        memory=DEFAULT_MEMORY[chosen] if bytes_asked is None else bytes_asked,
        vcpus=vcpus,
        accept=choice(AcceptMode, accept, "accept mode"),
        accel=choice(Accel, accel, "accelerator"),
        clock=choice(Clock, clock, "clock"),
        emulation=Emulation(
            route=choice(Route, route, "route"),
            cost=cost_model(cost),
            strict=strict,
            zero=zero,
            hotplug=choice(HotplugPolicy, hotplug, "hotplug policy"),
        ),
        numa_nodes=numa_nodes,
        trace_boot=trace,
        by_function=by_function,
        extra_cmdline=tuple(shlex.split(append)),
        layers=layers,
        maxmem=size(maxmem, "--maxmem") if maxmem else None,
        slots=slots if slots is not None else (DEFAULT_SLOTS if maxmem else 0),
        virtio_mem=size(virtio_mem, "--virtio-mem") if virtio_mem else 0,
        memmap_on_memory=memmap_on_memory,
        auto_online=choice(AutoOnline, auto_online, "auto-online policy"),
        confidential=Confidential(
            firmware=existing_file(firmware, "--firmware"),
            disk=existing_file(disk, "--disk"),
            snp_policy=number(snp_policy, "--snp-policy") if snp_policy else SNP_POLICY,
            debug=guest_debug,
            kernel_hashes=choice(KernelHashes, kernel_hashes, "use of kernel hashes"),
            cpu_model=cpu_model,
            huge_pages=choice(HugePages, huge_pages, "size of huge pages"),
        ),
    )
