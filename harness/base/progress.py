# SPDX-License-Identifier: MIT
"""How far a long step is. This package only reports; drawing it is the caller's business."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Called from the thread that does the work, as often as there is news; it must return soon.

    `stage` is one of a few words ("lists", "download", "unpack", "source", "config", "compile",
    "wait"); `done` and `total` count that stage's own unit (percent, files, objects). A `total` of
    None means nobody knows; `done` may pass an estimated total. `note` is one line for a person.
    """

    def __call__(self, stage: str, done: int, total: int | None, note: str) -> None: ...


def silent(stage: str, done: int, total: int | None, note: str) -> None:
    """A `Progress` that shows nothing."""
