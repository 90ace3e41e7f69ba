# SPDX-License-Identifier: MIT
"""Groups of verbs, which list them without cutting what is said of each."""

from __future__ import annotations

import inspect

import click


class Group(click.Group):
    """Lists its commands with the first sentence of each in full: click cuts it to the line."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list."""
        with formatter.section("Commands"):
            names = self.list_commands(ctx)
            formatter.write_dl([(name, self.summary(ctx, name)) for name in names])

    def summary(self, ctx: click.Context, name: str) -> str:
        """What is said of a command in the list."""
        command = self.get_command(ctx, name)
        assert command
        paragraph = inspect.cleandoc(command.help or "").split("\n\n")[0]
        sentence, stop, _ = " ".join(paragraph.split()).partition(". ")
        return sentence + stop.rstrip()
