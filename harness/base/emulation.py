# SPDX-License-Identifier: MIT
"""The emulated platform's part of a guest's spec: the carried kernel patch and its cost models."""

import enum
from dataclasses import dataclass

from harness.base.options import FLAG, SIZE, Compared, ValueKind, one_of, option
from harness.base.status import UsageError
from harness.base.units import MIB, PAGES_PER_UNIT


class Route(enum.StrEnum):
    """How an emulated guest gets its table of unaccepted memory."""

    DIRECT = "direct"
    """QEMU -kernel without firmware: the kernel patch makes the table."""
    EFI = "efi"
    """OVMF: the kernel's own EFI stub makes the table."""


class HotplugPolicy(enum.StrEnum):
    """When the emulated platform's hot-added memory is accepted (docs/emulation.md)."""

    OFF = "off"
    """It comes accepted."""
    LAZY = "lazy"
    """As it is allocated."""
    EAGER = "eager"
    """In arch_add_memory()."""
    ONLINE = "online"
    """When its memory block goes online."""


@dataclass(frozen=True)
class CostModel:
    """What one emulated accept of a 2 MiB unit costs. A model, not a measurement of hardware."""

    name: str
    ns_per_unit: int
    source: str

    @property
    def ns_per_page(self) -> int:
        """What accepting a page of 4 KiB costs by itself: all memory so took more than 20 times as
        long as by 2 MiB (cover letter of the first patch set for unaccepted memory, 2021-08-10)."""
        return self.ns_per_unit * 20 // PAGES_PER_UNIT

    def describe(self) -> str:
        """The words to print wherever a figure rests on the model."""
        return f"cost model '{self.name}' ({self.ns_per_unit:,} ns per 2 MiB unit: {self.source})"


_KEXEC_THREAD = "a model after figures published on linux-mm in the kexec thread of 2025-02"
COST_MODELS = {
    "free": CostModel("free", 0, "acceptance costs nothing but the kernel's own work"),
    "tdx": CostModel("tdx", 1_300_000, _KEXEC_THREAD),
    "snp": CostModel("snp", 3_100_000, _KEXEC_THREAD),
}


def cost_model(name: str) -> CostModel:
    """The model called `name`, or a custom one if `name` is a number of ns per unit."""
    if name in COST_MODELS:
        return COST_MODELS[name]
    if name.isdecimal():
        return CostModel("custom", int(name), "given by the user")
    known = ", ".join(COST_MODELS)
    raise UsageError(
        f"unknown cost model {name!r}", hint=f"use one of {known}, or a number of ns per 2 MiB unit"
    )


COST = ValueKind(
    "cost model",
    CostModel,
    cost_model,
    lambda cost: str(cost.ns_per_unit) if cost.name == "custom" else cost.name,
    "MODEL",
)


@dataclass(frozen=True)
class Emulation:
    """Parameters of the emulated platform (docs/emulation.md)."""

    route: Route = option(
        Route.DIRECT,
        one_of(Route, "route"),
        "The guest gets its table of unaccepted memory from the kernel patch (direct), or by OVMF "
        "and the EFI stub (efi).",
        targets=("emulated",),
    )
    cost: CostModel = option(
        COST_MODELS["free"],
        COST,
        "Accepting 2 MiB takes what this model says: free, tdx, snp, or a number of ns.",
        wish=True,
        compared=Compared("cost model, ns per unit", part="ns_per_unit"),
    )
    strict: bool = option(
        True,
        FLAG,
        "Touching unaccepted memory is caught: it is unmapped, or the platform stops the guest.",
        wish=True,
    )
    zero: bool = option(
        False, FLAG, "Memory is zeroed when it is accepted.", targets=("emulated",), wish=True
    )
    hotplug: HotplugPolicy = option(
        HotplugPolicy.LAZY,
        one_of(HotplugPolicy, "hotplug policy"),
        "Plugged memory is accepted already (off), as it is allocated, when it is added, or when "
        "its block goes online.",
        targets=("emulated",),
    )
    start: int = option(
        16 * MIB,
        SIZE,
        "This is the first byte of memory that may be unaccepted.",
        name="unaccepted_start",
        targets=("emulated",),
    )
    end: int | None = option(
        None,
        SIZE,
        "Memory from this byte on is accepted; without it unaccepted memory ends with RAM.",
        name="unaccepted_end",
        targets=("emulated",),
    )

    def __post_init__(self) -> None:
        for bound in (self.start, self.end or 0):
            if bound % MIB:
                raise UsageError(
                    f"the range of unaccepted memory is told in MiB: {bound} bytes is no multiple",
                    hint="choose another --unaccepted-start or --unaccepted-end",
                )

    def kernel_parameter(self) -> str:
        """The value for the kernel's unaccepted_emulation= parameter."""
        pairs = {
            "route": self.route.value,
            "from": f"{self.start // MIB}M",
            "cost": str(self.cost.ns_per_unit),
            "zero": str(int(self.zero)),
            "strict": str(int(self.strict)),
            "hotplug": self.hotplug.value,
        }
        if self.end is not None:
            pairs["to"] = f"{self.end // MIB}M"
        return ",".join(f"{key}={value}" for key, value in pairs.items())
