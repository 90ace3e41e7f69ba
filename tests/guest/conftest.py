# SPDX-License-Identifier: MIT
"""Guests of a few hundred instructions, for what no kernel does to its platform."""

import contextlib
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.qemu.build import platform_qemu
from harness.run.session import Session
from tests.support.tiny_guest import StartTiny, TinyGuest


@pytest.fixture
def tiny(cvm_session: Session, tmp_path: Path) -> Iterator[StartTiny]:
    """`tiny("tdx", vcpus=2)` starts a guest; it is ended with the test."""
    numbers = itertools.count()
    with contextlib.ExitStack() as stack:

        def start(platform: str, **options: Any) -> TinyGuest:
            qemu = platform_qemu(platform, cvm_session.store).binary
            place = tmp_path / f"{platform}-{next(numbers)}"
            return stack.enter_context(TinyGuest(qemu, platform, place, **options))

        yield start
