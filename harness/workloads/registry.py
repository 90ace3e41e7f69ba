# SPDX-License-Identifier: MIT
"""All workloads by name, and workloads made from option texts."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from harness.base.options import size
from harness.base.status import UsageError
from harness.base.units import UNIT_SIZE
from harness.workloads.base import Parameter, Workload, parameters
from harness.workloads.bound import MemcgLimited, NearOom, NumaBound
from harness.workloads.hotplug import HotplugCycle, PlugWhileAllocating
from harness.workloads.kexec import Kexec
from harness.workloads.lkvs import Lkvs
from harness.workloads.programs import (
    Atomic,
    Churn,
    Drain,
    Fill,
    ForkStorm,
    Fragment,
    Mlock,
    Slab,
)
from harness.workloads.stress_ng import StressNg
from harness.workloads.touch import ParallelTouch, Steps, Touch

_CLASSES: tuple[type[Workload], ...] = (
    Touch,
    ParallelTouch,
    Steps,
    HotplugCycle,
    PlugWhileAllocating,
    Fill,
    Slab,
    ForkStorm,
    Atomic,
    Mlock,
    MemcgLimited,
    NumaBound,
    Fragment,
    NearOom,
    Drain,
    Churn,
    Kexec,
    StressNg,
    Lkvs,
)
WORKLOADS: Mapping[str, type[Workload]] = {str(cls.name): cls for cls in _CLASSES}


def workload_class(name: str) -> type[Workload]:
    """Raises UsageError that lists the others."""
    try:
        return WORKLOADS[name]
    except KeyError:
        known = ", ".join(WORKLOADS)
        raise UsageError(f"unknown workload {name!r}", hint=f"use one of {known}") from None


def build_workload(name: str, given: Mapping[str, Any], memory: int) -> Workload:
    """The workload `name` for a guest of `memory` bytes, with the parameters `given`.

    Sizes may be texts ("2G"); a parameter that is None has its default. Raises UsageError.
    """
    cls = workload_class(name)
    values: dict[str, Any] = {}
    for parameter in parameters(cls):
        value = given.get(parameter.name)
        if value is None and parameter.share:
            value = int(memory * parameter.share) // UNIT_SIZE * UNIT_SIZE
        if value is None:
            continue
        if parameter.kind == "size" and isinstance(value, str):
            value = size(value, parameter.option)
        values[parameter.name] = value
    return cls(**values)


def describe(parameter: Parameter, cls: type[Workload]) -> str:
    """The default of a parameter, in words."""
    if parameter.share:
        return f"{parameter.share:.0%} of the guest's memory"
    (field,) = (f for f in dataclasses.fields(cls) if f.name == parameter.name)  # type: ignore[arg-type]
    return "" if field.default in (None, dataclasses.MISSING, ()) else str(field.default)
