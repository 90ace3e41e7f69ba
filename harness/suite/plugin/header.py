# SPDX-License-Identifier: MIT
"""What tests run on, in pytest's report: target, accelerator, QEMU, kernel, and why these."""

import pytest

from harness.base.spec import GuestSpec
from harness.base.status import HarnessError
from harness.base.store import Store
from harness.suite.plugin.options import option, spec_and_why
from harness.suite.plugin.verdicts import one_line
from harness.targets.facts import host_facts
from harness.targets.registry import target_for


def header(config: pytest.Config) -> list[str]:
    """One line a fact; a host that cannot run the target is told with the reason."""
    try:
        spec, why = spec_and_why(config)
    except HarnessError as error:
        return [one_line(error)]
    target = target_for(spec.target)
    lines = [f"target {spec.target.value} ({why}): {target.platform_words(spec)}"]
    if target.platform_emulated(spec):  # to look for its QEMU may mean to build it
        lines.append("QEMU with this platform: cvm-harness build-qemu, or the first test does it")
        return [*lines, _kernel_line(config, spec)]
    try:
        host = host_facts(spec, Store())
        lines.append(f"QEMU {host.qemu.version}, {host.accel.value} ({host.accel_reason})")
        if host.firmware:
            lines.append(f"firmware {host.firmware}")
    except HarnessError as error:
        lines.append(one_line(error))
    return [*lines, _kernel_line(config, spec)]


def _kernel_line(config: pytest.Config, spec: GuestSpec) -> str:
    kernel = spec.confidential.disk or option(config, "--kernel")
    modelled = not target_for(spec.target).on_hardware(spec)
    cost = f"cost {spec.emulation.cost.name}, " if modelled else ""
    return f"kernel {kernel}, {cost}tier {option(config, '--tier')}"
