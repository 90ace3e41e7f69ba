# SPDX-License-Identifier: MIT
"""All workloads by name, and workloads made from option texts."""

from collections.abc import Mapping
from typing import Any

from harness.base.options import size
from harness.base.status import UsageError
from harness.base.units import UNIT_SIZE
from harness.workloads import bound, hotplug, kexec, lkvs, programs, reboot, stress_ng, touch
from harness.workloads.base import Parameter, Workload

_MODULES = (touch, hotplug, programs, bound, kexec, reboot, stress_ng, lkvs)
WORKLOADS: Mapping[str, type[Workload]] = {
    cls.name: cls
    for module in _MODULES
    for cls in vars(module).values()
    if isinstance(cls, type) and issubclass(cls, Workload) and cls.__module__ == module.__name__
}


def workload_class(name: str) -> type[Workload]:
    """Raises UsageError that lists the others."""
    try:
        return WORKLOADS[name]
    except KeyError:
        known = ", ".join(WORKLOADS)
        raise UsageError(f"unknown workload {name!r}", hint=f"use one of {known}") from None


def build_workload(name: str, given: Mapping[str, Any], memory: int) -> Workload:
    """The workload `name` for a guest of `memory` bytes, with the parameters `given`. Sizes may be
    texts ("2G"); a parameter that is None has its default. Raises UsageError."""
    cls = workload_class(name)
    values: dict[str, Any] = {}
    for parameter in cls.parameters():
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
    default = getattr(cls, parameter.name)
    return "" if default in (None, ()) else str(default)
