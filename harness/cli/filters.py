# SPDX-License-Identifier: MIT
"""The options that choose runs out of many; the verb gets them as one `wanted: Filter`."""

from __future__ import annotations

import datetime
import functools
import inspect
from collections.abc import Callable
from typing import Any

import click

from harness.base.options import choice
from harness.base.status import Status, UsageError
from harness.compare.index import Filter

Command = Callable[..., Any]


def filter_options(command: Command) -> Command:
    """Adds --status, --target, --kernel, --workload, --accept, --since and --cause."""

    @functools.wraps(command)
    def wrapper(**given: Any) -> Any:
        names = inspect.signature(Filter).parameters.keys() & given.keys()
        chosen = {name: given.pop(name) for name in names}
        chosen["status"] = tuple(
            choice(Status, text.upper(), "status") for text in chosen["status"]
        )
        chosen["since"] = _since(chosen["since"])
        return command(wanted=Filter(**chosen), **given)

    options = [
        click.option(
            "--status", multiple=True, help="PASS, FAIL, ERROR, MISS, …  May be repeated."
        ),
        click.option("--target", default="", help="emulated, snp or tdx."),
        click.option("--kernel", default="", help="Part of the kernel's release."),
        click.option("--workload", default="", help="The workload's name."),
        click.option("--accept", default="", help="lazy or eager."),
        click.option(
            "--since", default="", help="A UTC day (2026-11-24) or a number of days (7d)."
        ),
        click.option("--cause", default="", help="Part of the cause."),
    ]
    for option in reversed(options):
        wrapper = option(wrapper)
    return wrapper


def _since(text: str) -> str:
    if not text:
        return ""
    if text.endswith("d") and text[:-1].isdecimal():
        moment = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=int(text[:-1]))
        return moment.isoformat(timespec="seconds")
    try:
        return datetime.datetime.fromisoformat(text).isoformat()
    except ValueError:
        raise UsageError(
            f"--since: not a day: {text!r}", hint="write 2026-11-24, or 7d for seven days"
        ) from None
