# SPDX-License-Identifier: MIT
"""The options that choose runs out of many; the verb gets them as one `wanted: Filter`."""

import datetime
from collections.abc import Callable
from typing import Any

import click

from harness.base.options import choice
from harness.base.status import Status, UsageError
from harness.cli.options import Decorator, bundle
from harness.compare.index import Filter


def _statuses(_context: Any, _option: Any, texts: tuple[str, ...]) -> tuple[Status, ...]:
    return tuple(choice(Status, text.upper(), "status") for text in texts)


def _since(_context: Any, _option: Any, text: str) -> str:
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


def _text(name: str, help: str, read: Callable[..., str] | None = None) -> Decorator:
    return click.option(name, default="", show_default=False, callback=read, help=help)


filter_options = bundle(
    "wanted",
    Filter,
    click.option(
        "--status",
        multiple=True,
        callback=_statuses,
        help="PASS, FAIL, ERROR, MISS, …  May be repeated.",
    ),
    _text("--target", "emulated, snp or tdx."),
    _text("--kernel", "Part of the kernel's release."),
    _text("--workload", "The workload's name."),
    _text("--accept", "lazy or eager."),
    _text("--since", "A UTC day (2026-11-24) or a number of days (7d).", _since),
    _text("--cause", "Part of the cause."),
)
