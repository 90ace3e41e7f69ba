# SPDX-License-Identifier: MIT
"""Snapshots in the cache: one per digest of what shaped the guest, made once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from harness.base.store import Store
from harness.base.units import GIB
from harness.guest.snapshot.snapshot import BadSnapshot, OpenSnapshot

KIND = "snapshot"
VERSION = 1
"""Raise it when the same guest is to be saved in another way."""
MAX_BYTES = 8 * GIB
"""What all snapshots together may take on disk: some thirty guests of 4 GiB."""
_ATTEMPTS = 3
"""Others may throw away what we are about to open."""

Save = Callable[[Path], None]
"""Boots the template and makes the directory a snapshot of it."""


class SnapshotStore:
    """The snapshots of one cache. Safe for any number of processes at once."""

    def __init__(self, store: Store, max_bytes: int = MAX_BYTES) -> None:
        self._store = store
        self._max_bytes = max_bytes

    def open(
        self, digest: str, save: Save, *, waiting: Callable[[], None] = lambda: None
    ) -> tuple[OpenSnapshot, str]:
        """The snapshot, made by `save` if there is none, and why one was thrown away before.

        Raises what `save` raises, and BadSnapshot if even a new one cannot be used.
        """
        discarded = ""
        made = False

        def build(directory: Path) -> None:
            nonlocal made
            made = True
            save(directory)

        for last in (False,) * _ATTEMPTS + (True,):
            path = self._store.fetch(KIND, digest, build, waiting=waiting)
            try:
                snapshot = OpenSnapshot(path, digest)
            except BadSnapshot as error:
                if made or last:
                    raise
                discarded = str(error)
                self.discard(digest)
                continue
            if made:  # after it was opened: it may be what has to go
                self._store.sweep(self._max_bytes, KIND)
            return snapshot, discarded
        raise AssertionError("the last attempt returns or raises")

    def discard(self, digest: str) -> None:
        """Throw a snapshot away. Guests that run from it go on."""
        self._store.remove(KIND, digest)
