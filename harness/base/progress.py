# SPDX-License-Identifier: MIT
"""How far a long step is. This package only reports; drawing it is the caller's business."""

from typing import Protocol


class Progress(Protocol):
    """Called from the thread that does the work, as often as there is news; it must return soon.

    `stage` is one of a few words; `done` and `total` count that stage's own unit (percent, files,
    objects). A `total` of None is not known; it may be estimated, and passed. `note` is one line.
    """

    def __call__(self, stage: str, done: int, total: int | None, note: str) -> None: ...


def silent(stage: str, done: int, total: int | None, note: str) -> None:
    """A `Progress` that shows nothing."""
