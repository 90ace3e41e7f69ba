# SPDX-License-Identifier: MIT
"""Text that people give (command line, pytest options, plan files) to specs, and back."""

from __future__ import annotations

import shlex
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar

from harness.base.spec import (
    SNP_POLICY,
    AutoOnline,
    Clock,
    GuestSpec,
    HotplugPolicy,
    HugePages,
    KernelHashes,
    Route,
)
from harness.base.status import UsageError
from harness.base.units import MIB, parse_size

DEFAULT_KERNEL = "debian:6.12"
# Options of the hardware targets: name, default, help, how click is to read them.
CONFIDENTIAL_OPTIONS: tuple[tuple[str, object, str, dict[str, Any]], ...] = (
    (
        "--firmware",
        None,
        "OVMF image for -bios; without it QEMU's firmware descriptors are searched (snp, tdx, "
        "efi route).",
        {"metavar": "FILE"},
    ),
    (
        "--disk",
        None,
        "Boot this distribution image (raw or qcow2, with cloud-init) instead of a kernel "
        "(snp, tdx). It is not written to.",
        {"metavar": "IMAGE"},
    ),
    ("--snp-policy", None, "SNP guest policy, 64 bits.  [default: 0x30000]", {"metavar": "BITS"}),
    (
        "--guest-debug/--no-guest-debug",
        False,
        "Let the host read the guest's memory (SNP policy bit 19, TDX attribute bit 0).",
        {},
    ),
    (
        "--kernel-hashes",
        "auto",
        "auto, on or off: SNP firmware gets the hashes of kernel, initrd and command line.",
        {},
    ),
    ("--cpu-model", "", "QEMU CPU model.  [default: EPYC-v4 on snp, host on tdx]", {}),
    ("--huge-pages", "none", "none, 2M or 1G: backs what the guest shares (snp, tdx).", {}),
)

_Choice = TypeVar("_Choice", bound=Enum)


def choice(kind: type[_Choice], text: str, option: str) -> _Choice:
    """The member of `kind` called `text`. Raises UsageError that lists the others."""
    try:
        return kind(text)
    except ValueError:
        known = ", ".join(member.value for member in kind)
        raise UsageError(f"unknown {option} {text!r}", hint=f"use one of {known}") from None


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
