# SPDX-License-Identifier: MIT
"""What tests run on, in pytest's report: target, accelerator, QEMU, kernel, and why these."""

from __future__ import annotations

import pytest

from harness.base.guest_options import guest_option
from harness.base.status import HarnessError
from harness.base.store import Store
from harness.suite.plugin.options import option, spec_and_why
from harness.suite.plugin.verdicts import one_line
from harness.targets.facts import host_facts


def header(config: pytest.Config) -> list[str]:
    """One line a fact; a host that cannot run the target is told with the reason."""
    try:
        spec, why = spec_and_why(config)
    except HarnessError as error:
        return [one_line(error)]
    lines = [f"target {spec.target.value} ({why})"]
    try:
        host = host_facts(spec, Store())
        lines.append(f"QEMU {host.qemu.version}, {host.accel.value} ({host.accel_reason})")
        if host.firmware:
            lines.append(f"firmware {host.firmware}")
    except HarnessError as error:
        lines.append(one_line(error))
    kernel = spec.confidential.disk or option(config, "--kernel")
    modelled = guest_option("cost").applies_to(spec.target)
    cost = f"cost {spec.emulation.cost.name}, " if modelled else ""
    return [*lines, f"kernel {kernel}, {cost}tier {option(config, '--tier')}"]
