# SPDX-License-Identifier: MIT
"""A kernel without the feature is turned away before anything is booted."""

from pathlib import Path

import pytest

from harness.base.spec import GuestSpec, TargetName
from harness.base.status import PreconditionError, Status
from harness.kernel.config import merge, read_fragment
from harness.kernel.kernel import Kernel
from harness.kernel.version import Version
from harness.run.session import Session
from harness.targets.base import check_kernel
from harness.targets.emulated import EmulatedTarget
from harness.targets.registry import kernel_of
from harness.targets.snp import SnpTarget
from harness.targets.tdx import TdxTarget


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
    for name in SnpTarget.fragments:
        assert merge(read_fragment(name, Version(6, 12)))["X86_PAT"].value == "y"


def test_one_kernel_serves_both_confidential_targets() -> None:
    requests = [
        Session.request_for(GuestSpec(target), "debian:6.12")
        for target in (TargetName.TDX, TargetName.SNP)
    ]
    assert requests[0] == requests[1]
    settings = merge(
        setting
        for name in (*requests[0].fragments, *requests[0].carried_fragments)
        for setting in read_fragment(name, Version(6, 12))
    )
    for target in (TdxTarget, SnpTarget):
        assert all(settings[symbol].value == "y" for symbol in target.symbols)
    assert settings["UNACCEPTED_MEMORY_TEST"].value == "y"


def test_a_night_of_every_target_has_one_kernel_for_all() -> None:
    assert kernel_of([]) == (TargetName.EMULATED, ())
    assert kernel_of([TargetName.EMULATED]) == (TargetName.EMULATED, ())
    assert kernel_of([TargetName.TDX, TargetName.SNP]) == (TargetName.SNP, ())
    assert kernel_of([*TargetName]) == (TargetName.EMULATED, ("tdx", "snp"))
