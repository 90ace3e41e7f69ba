# SPDX-License-Identifier: MIT
"""The QEMU to check against: the machine's own if it has both objects, else one from the mirror."""

from pathlib import Path

import pytest

from harness.base.status import HarnessError
from harness.base.store import Store
from harness.qemu.binary import Qemu, find_qemu, parse_version, query
from tests.support.qemu_root import QemuRoot, qemu_root
from tests.support.real_qemu import RealQemu

OBJECTS = ("sev-snp-guest", "tdx-guest")


@pytest.fixture(scope="session")
def root() -> QemuRoot:
    """QEMU 11.1 and firmware from the mirror."""
    try:
        return qemu_root(Store())
    except (HarnessError, OSError) as error:
        pytest.skip(f"no recent QEMU can be had here: {error}")


@pytest.fixture(scope="session")
def real(request: pytest.FixtureRequest) -> RealQemu:
    """The QEMU to check against."""
    own = _own()
    if own:
        return RealQemu(own)
    binary: Path = request.getfixturevalue("root").binary
    return RealQemu(Qemu(binary, query(binary, "--version").split("version ")[1].splitlines()[0]))


def _own() -> Qemu | None:
    try:
        qemu = find_qemu()
        objects = query(qemu.binary, "-object", "help").split()
    except HarnessError:
        return None
    new = parse_version(qemu.version) >= (10, 1)
    return qemu if new and all(kind in objects for kind in OBJECTS) else None
