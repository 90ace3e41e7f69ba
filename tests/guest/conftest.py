# SPDX-License-Identifier: MIT
"""Guests on QEMU's emulated platforms: with a distribution's kernel, or with a few hundred
instructions, for what no kernel does to its platform."""

import contextlib
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.base.spec import GuestSpec
from harness.kernel.kernel import Kernel
from harness.qemu.build import platform_qemu
from harness.run.session import Session
from tests.support.tiny_guest import StartTiny, TinyGuest

DISTRIBUTION_KERNEL = "debian-binary:6.12"


@pytest.fixture
def kernel(
    request: pytest.FixtureRequest, cvm_session: Session, cvm_spec: GuestSpec, spec: GuestSpec
) -> Kernel:
    """For the `spec` of the test: the distribution's as it is; the command line's for the command
    line's platform."""
    if cvm_spec.target is spec.target:
        found: Kernel = request.getfixturevalue("cvm_kernel")
        return found
    return cvm_session.kernel_for(spec, DISTRIBUTION_KERNEL)


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
