# SPDX-License-Identifier: MIT
"""Tests of several processes (pytest-xdist) take turns where one has more vCPUs than the host has
processors: one that waits for a vCPU takes many times as long beside a second guest."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def turn(directory: Path, *, alone: bool) -> Iterator[None]:
    """Hold the host: alone, or with others that need not be alone.

    A writer-preferring readers-writer lock (flock) of all processes that name `directory`. Those
    that come later queue, so no writer starves. A process that dies frees its locks (flock(2)).
    """
    with _opened(directory / "turn.room") as room:
        with _opened(directory / "turn.door") as door:
            fcntl.flock(door, fcntl.LOCK_EX)
            fcntl.flock(room, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        yield


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)  # and with it the lock
