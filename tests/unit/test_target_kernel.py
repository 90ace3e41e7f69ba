# SPDX-License-Identifier: MIT
"""A kernel without the feature is turned away before anything is booted."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.base.status import PreconditionError, Status
from harness.kernel.fragment import merge, read_fragment
from harness.kernel.kernel import Kernel
from harness.kernel.version import Version
from harness.targets.base import check_kernel
from harness.targets.emulated import EmulatedTarget
from harness.targets.snp import SnpTarget


def kernel(config: Path | None) -> Kernel:
    return Kernel(Path("bzImage"), "6.12.1", "6.12.1-amd64", "0" * 64, config, None, {})


def test_a_kernel_without_the_feature_is_an_error_that_names_the_symbol(tmp_path: Path) -> None:
    config = tmp_path / ".config"
    config.write_text(
        "CONFIG_UNACCEPTED_MEMORY=y\n# CONFIG_UNACCEPTED_MEMORY_EMULATION is not set\n"
    )
    with pytest.raises(PreconditionError, match=r"6\.12\.1-amd64 .*_EMULATION") as info:
        check_kernel(EmulatedTarget(), kernel(config))
    assert info.value.status is Status.ERROR
    assert "CONFIG_UNACCEPTED_MEMORY," not in info.value.cause
    assert "--kernel" in info.value.hint


def test_a_kernel_with_it_or_of_unknown_configuration_may_try(tmp_path: Path) -> None:
    config = tmp_path / ".config"
    config.write_text("CONFIG_UNACCEPTED_MEMORY=y\nCONFIG_UNACCEPTED_MEMORY_EMULATION=y\n")
    check_kernel(EmulatedTarget(), kernel(config))
    check_kernel(EmulatedTarget(), kernel(None))


def test_an_snp_kernel_needs_pat_and_gets_it(tmp_path: Path) -> None:
    config = tmp_path / ".config"
    config.write_text(
        "CONFIG_UNACCEPTED_MEMORY=y\nCONFIG_AMD_MEM_ENCRYPT=y\n# CONFIG_X86_PAT is not set\n"
    )
    with pytest.raises(PreconditionError, match=r"without CONFIG_X86_PAT$"):
        check_kernel(SnpTarget(), kernel(config))
    version = Version(6, 12)
    set_by_fragment = merge(
        setting for name in SnpTarget.fragments for setting in read_fragment(name, version)
    )
    assert set_by_fragment["X86_PAT"].value == "y"
