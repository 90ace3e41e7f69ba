# SPDX-License-Identifier: MIT
"""From what options are given to a guest's spec; "auto" takes the best target that this host can
run."""

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from harness.base.guest_options import blank_spec, guest_option, read_options, with_options
from harness.base.spec import Accel, Clock, GuestSpec, TargetName
from harness.base.status import NotApplicable, UsageError
from harness.targets.base import Target, need_hotplug
from harness.targets.ready import HARDWARE, accelerator_for, best_target
from harness.targets.registry import target_for

MemoryOf = Callable[[Target], int]


def guest_spec(**given: Any) -> GuestSpec:
    """A GuestSpec from options by name (docs/options.md): guest_spec(memory="4G", vcpus=4).

    Values are texts as on the command line, or of the option's own type. Raises UsageError naming
    what is wrong, and the nearest option for one that does not exist.
    """
    return spec_and_reason(given)[0]


def spec_and_reason(
    given: Mapping[str, object],
    *,
    defaults: Mapping[str, object] | None = None,
    memory: MemoryOf = lambda target: target.default_memory,
) -> tuple[GuestSpec, str]:
    """The spec that `given` describes, and why it has its target. Raises UsageError.

    `defaults` are a door's own, where the target has such an option: values, or functions of the
    target; `memory` is the default that depends on the target.
    """
    values = read_options(given)
    asked: TargetName | None = values.pop("target", None)

    def make(name: TargetName) -> GuestSpec:
        target = target_for(name)
        spec = with_options(blank_spec(name, memory(target)), values)
        own = {o: v(target) if callable(v) else v for o, v in (defaults or {}).items()}
        fitting = {
            option: value
            for option, value in read_options(own).items()
            # Hardware has no cost model.
            if guest_option(option).applies_to(name) and not target.on_hardware(spec)
        }
        told = {**fitting, **values}
        spec = with_options(spec, told)
        if target.platform_emulated(spec) and "memory" not in told:
            spec = replace(spec, memory=target.emulation_memory)
        target.check(spec)
        return spec

    if asked is not None:
        undecided = values.get("accel", Accel.AUTO) is Accel.AUTO
        if asked in HARDWARE and undecided and values.get("clock") is not Clock.ICOUNT:
            values["accel"], why = accelerator_for(asked)
            return make(asked), why
        return make(asked), "asked for"
    possible: dict[TargetName, GuestSpec] = {}
    for name in HARDWARE:
        with contextlib.suppress(UsageError, NotApplicable):
            spec = make(name)
            if spec.maxmem is not None:
                need_hotplug(target_for(name), spec)
            if target_for(name).on_hardware(spec):
                possible[name] = spec
    if not possible:
        return make(TargetName.EMULATED), "auto: the options are those of an emulated guest"
    best, why = best_target()
    if best in possible:
        return possible[best], why
    return make(TargetName.EMULATED), why
