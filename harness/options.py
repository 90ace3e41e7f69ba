# SPDX-License-Identifier: MIT
"""Text that people give (command line, pytest options, plan files) to specs, and back."""

from __future__ import annotations

import shlex
from enum import Enum
from pathlib import Path
from typing import TypeVar

from harness.spec import (
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
from harness.status import UsageError
from harness.units import GIB, MIB, parse_size

DEFAULT_KERNEL = "debian:6.12"
DEFAULT_SLOTS = 8
"""DIMM slots of a guest that has --maxmem."""
DEFAULT_MEMORY = {
    TargetName.EMULATED: 4 * GIB,
    # 2 GiB of it lie below 4 GiB and are accepted by the firmware.
    TargetName.SNP: 16 * GIB,
    TargetName.TDX: 16 * GIB,
}
"""Bytes of a guest's memory where nothing else is asked for."""


_Choice = TypeVar("_Choice", bound=Enum)


def choice(kind: type[_Choice], text: str, option: str) -> _Choice:
    """The member of `kind` called `text`. Raises UsageError that lists the others."""
    try:
        return kind(text)
    except ValueError:
        known = ", ".join(member.value for member in kind)
        raise UsageError(f"unknown {option} {text!r}", hint=f"use one of {known}") from None


def choose_target(text: str, *, emulated: bool = False) -> tuple[TargetName, str]:
    """The target meant by `text`, and why: "auto" takes the best this host can do.

    `emulated`: something else was asked for that only an emulated guest can do.
    """
    if text != "auto":
        return choice(TargetName, text, "target"), "asked for"
    if emulated:
        return TargetName.EMULATED, "auto: the options are those of an emulated guest"
    from harness.host.ready import best_target

    return best_target()


def size(text: str, option: str) -> int:
    """Bytes meant by `text`. Raises UsageError naming the option."""
    try:
        return parse_size(text)
    except ValueError as error:
        raise UsageError(f"{option}: {error}") from None


def number(text: str, option: str) -> int:
    """The number meant by `text`, in any base that Python writes: 196608, 0x30000."""
    try:
        return int(text, 0)
    except ValueError:
        raise UsageError(f"{option}: not a number: {text!r}") from None


def existing_file(path: str | Path | None, option: str) -> Path | None:
    """The absolute path of a file that is there. Raises UsageError naming the option."""
    if path is None:
        return None
    found = Path(path).expanduser()
    if not found.is_file():
        raise UsageError(f"{option}: no such file: {path}")
    return found.absolute()


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


def spec_arguments(spec: GuestSpec, kernel: str) -> list[str]:
    """The options that make `spec` again: for the rerun command of a run."""
    emulation = spec.emulation
    asked = spec.confidential
    cost = emulation.cost
    arguments = [f"--target={spec.target.value}", f"--kernel={kernel}"]
    arguments += [f"--memory={spec.memory // MIB}M", f"--vcpus={spec.vcpus}"]
    arguments += [f"--accept={spec.accept.value}", f"--accel={spec.accel.value}"]
    optional = [
        (spec.clock is not Clock.WALL, f"--clock={spec.clock.value}"),
        (emulation.route is not Route.DIRECT, f"--route={emulation.route.value}"),
        (
            cost.name != "free",
            f"--cost={cost.ns_per_unit if cost.name == 'custom' else cost.name}",
        ),
        (not emulation.strict, "--no-strict"),
        (emulation.zero, "--zero"),
        (spec.numa_nodes > 1, f"--numa-nodes={spec.numa_nodes}"),
        (not spec.trace_boot, "--no-trace"),
        (spec.by_function, "--by-function"),
        (bool(spec.extra_cmdline), f"--append={shlex.join(spec.extra_cmdline)}"),
        (spec.maxmem is not None, f"--maxmem={(spec.maxmem or 0) // MIB}M"),
        (spec.slots > 0, f"--slots={spec.slots}"),
        (spec.virtio_mem > 0, f"--virtio-mem={spec.virtio_mem // MIB}M"),
        (emulation.hotplug is not HotplugPolicy.LAZY, f"--hotplug={emulation.hotplug.value}"),
        (spec.memmap_on_memory, "--memmap-on-memory"),
        (
            spec.auto_online is not AutoOnline.MOVABLE,
            f"--auto-online={spec.auto_online.value}",
        ),
        (asked.firmware is not None, f"--firmware={asked.firmware}"),
        (asked.disk is not None, f"--disk={asked.disk}"),
        (asked.snp_policy != SNP_POLICY, f"--snp-policy={asked.snp_policy:#x}"),
        (asked.debug, "--guest-debug"),
        (
            asked.kernel_hashes is not KernelHashes.AUTO,
            f"--kernel-hashes={asked.kernel_hashes.value}",
        ),
        (bool(asked.cpu_model), f"--cpu-model={asked.cpu_model}"),
        (asked.huge_pages is not HugePages.NONE, f"--huge-pages={asked.huge_pages.value}"),
    ]
    return arguments + [text for given, text in optional if given]
