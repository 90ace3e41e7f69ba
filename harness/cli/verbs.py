# SPDX-License-Identifier: MIT
"""The verbs of `cvm-harness`."""

import importlib

import click

from harness.cli.common import Group

VERBS = {
    "analyse": ("analyse:analyse", "Print what `run` printed, computed from the record."),
    "baseline": (
        "baseline:baseline",
        "Keep the figures of runs, and compare later runs with them.",
    ),
    "bench": ("bench:bench", "Measure: two kernels side by side, many guests, starts."),
    "bisect": ("bisect:bisect", "Find the commit that broke a test or made it cost more."),
    "bisect-step": ("bisect:bisect_step", "Judge one commit, for `git bisect run`."),
    "boot": ("app:boot", "Boot a guest and give a shell in it."),
    "boot-study": ("bootstudy:boot_study", "Measure lazy and eager boots over a ladder of sizes."),
    "build": ("app:build", "Build a kernel for guests and print where it is."),
    "build-qemu": ("qemu:build_qemu", "Build the QEMU that emulates TDX and SEV-SNP under TCG."),
    "catalogue": ("catalogue:catalogue", "Known bugs: list, show, and try the suite on them."),
    "compare": ("compare:compare", "Compare two sets of runs."),
    "doctor": ("doctor:doctor", "Say what this machine can run, and how to mend the rest."),
    "export": ("export:export", "Write runs for other programs."),
    "gc": ("gc:gc", "Remove kernels, images and runs that nobody used lately."),
    "history": ("history:history", "Show a metric over time, and where its level changed."),
    "hotplug-study": (
        "hotplug_study:hotplug_study",
        "Compare policies for accepting hot-added memory.",
    ),
    "kernel": ("kernel:kernel", "Work on the carried kernel patches in a git tree."),
    "list": ("list:list_runs", "List runs, oldest first."),
    "nightly": ("nightly:nightly", "Run a plan: build kernels, test them, measure, report."),
    "plan": ("plan:plan", "Show what a plan would do, and how long it takes."),
    "qemu": ("qemu:qemu", "Work on the carried QEMU patches in a git tree."),
    "quickstart": ("app:quickstart", "Boot lazily and eagerly, touch memory, compare."),
    "report": ("report:report", "Write an HTML report of runs or of a night."),
    "reproduce": ("reproduce:reproduce", "Do a run, or a bug of the catalogue, again."),
    "run": ("run:run", "Run a workload in a guest, check every counter."),
    "series": ("series:series", "Check a patch series commit by commit."),
    "workloads": ("workloads:workloads", "List the workloads that `run` knows."),
}
"""Verb -> its command in harness/cli, and what is said of it in the list. Only the verb that was
asked for is imported."""


class Verbs(Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import it; None where there is no such verb."""
        if cmd_name not in VERBS:
            return None
        module, _, name = VERBS[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(f"harness.cli.{module}"), name)
        return command

    def summary(self, ctx: click.Context, name: str) -> str:
        """From the table: nothing is imported for it."""
        return VERBS[name][1]
