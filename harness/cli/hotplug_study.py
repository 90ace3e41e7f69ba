# SPDX-License-Identifier: MIT
"""`cvm-harness hotplug-study`: what accepting hot-added memory sooner or later costs."""

from pathlib import Path

import click

from harness.base.options import size
from harness.base.spec import GuestSpec
from harness.cli.common import leave, print_json, rerun, working
from harness.cli.options import KernelChoice, hardware_cost, json_option, start_options
from harness.report import terminal


@click.command("hotplug-study")
@click.option("--dimms", default=4, type=click.IntRange(1), help="DIMMs.")
@click.option("--dimm-bytes", default="1G", help="Size of each.")
@click.option("--touch-bytes", default="1G", help="First-touched afterwards.")
@click.option("--repeats", default=1, type=click.IntRange(1), help="Guests a policy.")
@click.option("--markdown", is_flag=True, help="Print the table as Markdown.")
@start_options(cost=hardware_cost, memory="2G")
@json_option
def hotplug_study(
    dimms: int,
    dimm_bytes: str,
    touch_bytes: str,
    repeats: int,
    markdown: bool,
    spec: GuestSpec,
    kernel: KernelChoice,
    runs: Path,
    as_json: bool,
) -> None:
    """Compare the policies for hot-added memory: lazy, eager, online.

    Boots guests with each policy, plugs DIMMs, touches a part of the memory, and shows how long
    plugging took, what was accepted by then, and what the first touches cost. Makes the table of
    docs/hotplug.md.
    """
    from harness.studies.hotplug import HotplugPlan, compare_policies, study_status, table
    from harness.targets.base import need_hotplug
    from harness.targets.registry import target_for

    need_hotplug(target_for(spec.target), spec)
    plan = HotplugPlan(
        dimms, size(dimm_bytes, "--dimm-bytes"), size(touch_bytes, "--touch-bytes"), repeats
    )
    with working(runs) as (session, progress):
        built = kernel.for_guest(session, spec)
        arms = compare_policies(session, spec, built, plan, rerun(), progress)
    if as_json:
        print_json({"plan": plan, "arms": arms})
    else:
        out, _ = terminal.consoles()
        out.print(table(arms, plan, spec.emulation.cost.describe(), markdown=markdown))
        for arm in arms:
            for sample in arm.samples:
                words = f"{sample.status.value} {arm.policy.value}: {sample.directory}"
                out.print(f"{words} {sample.cause}".rstrip(), markup=False)
    leave(study_status(arms))
