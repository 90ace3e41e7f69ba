# SPDX-License-Identifier: MIT
"""Which QEMU runs a guest of an emulated platform."""

from pathlib import Path

import pytest

from harness.base.status import HostError
from harness.base.store import Store
from harness.qemu import build
from harness.qemu.binary import find_qemu
from harness.qemu.build import BuiltQemu, platform_qemu
from tests.support.qemu_in_small import MAIN

PLAIN = MAIN.replace("tdx-tcg-guest", "tdx-guest").replace("snp-tcg-guest", "sev-snp-guest")
NAME = "qemu-system-x86_64"


def program(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The QEMU that the harness has built; and none is asked for in the environment."""
    binary = program(tmp_path / "ours" / NAME, MAIN)
    monkeypatch.setattr(build, "ensure_qemu", lambda *_: BuiltQemu(binary, "10.0.13", "0", {}))
    monkeypatch.delenv("CVM_HARNESS_QEMU", raising=False)
    return binary


def put_on_path(tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    binary = program(tmp_path / "bin" / NAME, text)
    monkeypatch.setenv("PATH", f"{binary.parent}:/usr/bin:/bin")
    return binary


def test_ours_where_the_one_on_path_lacks_the_platform(
    tmp_path: Path, store: Store, ours: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_path = put_on_path(tmp_path, PLAIN, monkeypatch)
    assert platform_qemu("tdx", store).binary == ours
    assert find_qemu().binary == on_path, "every other guest runs on it"


def test_ours_where_there_is_no_other(
    tmp_path: Path, store: Store, ours: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(HostError):
        find_qemu()
    # The binary is a script, which needs a shell and nothing on PATH.
    assert platform_qemu("snp", store).binary == ours


def test_the_one_on_path_if_it_has_the_platform(
    tmp_path: Path, store: Store, ours: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_path = put_on_path(tmp_path, MAIN.replace("snp-tcg-guest", ""), monkeypatch)
    assert platform_qemu("tdx", store).binary == on_path
    assert platform_qemu("snp", store).binary == ours


def test_the_environments_wins_and_must_have_the_platform(
    tmp_path: Path, store: Store, ours: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_on_path(tmp_path, MAIN, monkeypatch)
    asked = program(tmp_path / "asked" / NAME, MAIN)
    monkeypatch.setenv("CVM_HARNESS_QEMU", str(asked))
    assert platform_qemu("tdx", store).binary == asked
    other = program(tmp_path / "other" / NAME, PLAIN)
    monkeypatch.setenv("CVM_HARNESS_QEMU", str(other))
    with pytest.raises(HostError, match="cannot emulate snp: it has no snp-tcg-guest") as caught:
        platform_qemu("snp", store)
    assert "build-qemu" in caught.value.hint
