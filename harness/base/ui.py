# SPDX-License-Identifier: MIT
"""Progress on standard error: a live line on a terminal, one plain line a stage elsewhere."""

from __future__ import annotations

import time

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

_PLAIN_EVERY_S = 15.0


class ProgressLine:
    """Shows where long work is. A context manager; usable as the `progress` of a Session."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live: Progress | None = None
        self._task = None
        self._stage = ""
        self._printed = 0.0
        if console.is_terminal:
            self._live = Progress(
                SpinnerColumn(),
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                TextColumn("{task.fields[note]}"),
                TimeElapsedColumn(),
                console=console,
                transient=True,
            )
            self._task = self._live.add_task("starting", total=None, note="")

    def __enter__(self) -> ProgressLine:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def __call__(self, stage: str, done: int = 0, total: int | None = None, note: str = "") -> None:
        """`done` of `total` (None: unknown) within `stage`."""
        if self._live and self._task is not None:
            self._live.update(self._task, description=stage, completed=done, total=total, note=note)
            return
        now = time.monotonic()
        if stage == self._stage and now - self._printed < _PLAIN_EVERY_S:
            return
        self._stage, self._printed = stage, now
        amount = f" {done}/{total}" if total else ""
        self._console.print(f"[{stage}]{amount} {note}".rstrip(), markup=False)
