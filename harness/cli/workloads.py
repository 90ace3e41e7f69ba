# SPDX-License-Identifier: MIT
"""`cvm-harness workloads`: what there is to run, with its parameters."""

import click

from harness.cli.common import print_json
from harness.cli.options import json_option
from harness.report import terminal


@click.command()
@json_option
def workloads(as_json: bool) -> None:
    """List the workloads that `run` knows, with their parameters and defaults."""
    from harness.workloads.registry import WORKLOADS, describe

    if as_json:
        print_json({name: cls.parameters() for name, cls in WORKLOADS.items()})
        return
    out, _ = terminal.consoles()
    for name, cls in WORKLOADS.items():
        first = (cls.__doc__ or "").split("\n\n")[0].replace("\n", " ")
        out.print(f"{name}: {' '.join(first.split())}", markup=False)
        for parameter in cls.parameters():
            default = describe(parameter, cls)
            shown = f"  [{default}]" if default else ""
            out.print(f"    {parameter.option:<14} {parameter.help}{shown}", markup=False)
