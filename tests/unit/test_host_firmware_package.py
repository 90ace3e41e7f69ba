# SPDX-License-Identifier: MIT
"""Firmware from packages: the first suite whose image can do it, and why the others cannot."""

import shutil
from pathlib import Path

import pytest

from harness.base.guest_options import guest_option
from harness.base.options import PackagedFirmware
from harness.base.status import HostError, UsageError
from harness.base.store import Store
from harness.host import firmware
from harness.host.firmware import (
    FirmwareSource,
)
from harness.host.view import LiveHost
from tests.support.debian_archive import Archive, use_archive
from tests.unit.test_host_firmware import EAGER, LAZY, PLAIN_IMAGE

needs_apt = pytest.mark.skipif(
    not (shutil.which("apt-get") and shutil.which("dpkg-deb")), reason="apt is not installed"
)
IMAGE = "./usr/share/ovmf/OVMF.fd"
LICENCE = {"./usr/share/doc/ovmf/copyright": b"text"}


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Archive:
    monkeypatch.setenv("CVM_HARNESS_CACHE", str(tmp_path / "facts"))
    archive = use_archive(tmp_path / "archive", monkeypatch)
    archive.publish("bookworm", "ovmf", "2022.11-6", {IMAGE: EAGER + PLAIN_IMAGE})
    archive.publish("trixie", "ovmf", "2025.02-8", {IMAGE: LAZY + PLAIN_IMAGE, **LICENCE})
    archive.publish("forky", "ovmf", "2026.08-2", {}, "ovmf-generic")
    archive.publish("forky", "ovmf-generic", "2026.08-2", {IMAGE: b"\1" + LAZY + PLAIN_IMAGE})
    return archive


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def fetch(
    store: Store, suite: str = "", demand: firmware.Demand = firmware.SNP
) -> firmware.Firmware:
    return FirmwareSource(demand, LiveHost(), store).fetch(suite)


@needs_apt
def test_the_first_suite_that_can_do_it_is_taken_and_the_others_have_reasons(
    archive: Archive, store: Store
) -> None:
    found = fetch(store)
    assert found.path.read_bytes() == LAZY + PLAIN_IMAGE
    assert found.source == "package ovmf 2025.02-8 of trixie/main"
    old, backports = found.rejected
    assert old.startswith("package ovmf 2022.11-6 of bookworm/main: ")
    assert "accepts all memory itself" in old
    assert backports == "bookworm-backports: it has neither ovmf-generic nor ovmf"
    kept = {str(path.relative_to(store.root / "entries")) for path in entries(store)}
    assert all(path.endswith("usr/share/ovmf/OVMF.fd") for path in kept)  # nothing else
    # again, with the archive gone: from the cache
    shutil.rmtree(archive.root)
    assert fetch(store) == found


def entries(store: Store) -> list[Path]:
    return [p for p in (store.root / "entries").rglob("*") if p.is_file() and p.name[0] != "."]


@needs_apt
def test_a_suite_by_name(archive: Archive, store: Store) -> None:
    assert fetch(store, "forky").source == "package ovmf-generic 2026.08-2 of forky/main"
    with pytest.raises(HostError, match="suites searched: bookworm") as error:
        fetch(store, "bookworm")
    assert "accepts all memory itself" in error.value.details[0]
    with pytest.raises(UsageError, match="'warty' is no suite") as usage:
        fetch(store, "warty")
    assert "bookworm, bookworm-backports, trixie" in usage.value.hint


@needs_apt
def test_what_the_machine_has_is_taken_before_anything_is_fetched(
    archive: Archive, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = tmp_path / "plain.fd"
    monkeypatch.setattr(firmware, "descriptor_directories", lambda: [])
    monkeypatch.setattr(firmware, "PLAIN_IMAGES", (plain,))
    plain.write_bytes(EAGER + PLAIN_IMAGE)
    fetched = FirmwareSource(firmware.SNP, LiveHost(), store).find()
    assert fetched.source.startswith("package ovmf 2025.02")
    assert fetched.rejected[0].startswith(f"{plain}: ")
    plain.write_bytes(LAZY + PLAIN_IMAGE)
    found = FirmwareSource(firmware.SNP, LiveHost(), store).find()
    assert found.path == plain
    asked = PackagedFirmware("forky")
    named = FirmwareSource(firmware.SNP, LiveHost(), store).find(asked)
    assert named == fetch(store, "forky")
    with pytest.raises(UsageError, match="no metadata for intel-tdx"):
        FirmwareSource(firmware.TDX, LiveHost(), store).find(plain)


@needs_apt
def test_what_would_be_taken_is_said_without_fetching(
    archive: Archive, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = tmp_path / "plain.fd"
    monkeypatch.setattr(firmware, "PLAIN_IMAGES", (plain,))
    monkeypatch.setattr(firmware, "descriptor_directories", lambda: [])
    assert FirmwareSource(firmware.SNP, LiveHost(), store).foreseen() is None
    assert not entries(store)
    fetched = fetch(store)
    held = FirmwareSource(firmware.SNP, LiveHost(), store).foreseen()
    assert held
    assert (held.path, held.source) == (fetched.path, fetched.source)
    plain.write_bytes(LAZY + PLAIN_IMAGE)
    found = FirmwareSource(firmware.SNP, LiveHost(), store).foreseen()
    assert found
    assert found.path == plain


@needs_apt
def test_an_option_names_a_package_or_a_file(
    archive: Archive, store: Store, tmp_path: Path
) -> None:
    def image(text: str) -> Path | None:
        asked = guest_option("firmware").value(text)
        assert guest_option("firmware").argument(asked) == f"--firmware={text}"
        return FirmwareSource(firmware.SNP, LiveHost(), store).named(asked)

    assert image("debian") == fetch(store).path
    assert image("debian:forky") == fetch(store, "forky").path
    file = tmp_path / "debian"
    file.write_bytes(b"")
    assert image(str(file)) == file
    for text in ("debian:", "debian:Trixie", str(tmp_path / "missing.fd")):
        with pytest.raises(UsageError, match="--firmware: no such file"):
            image(text)


@needs_apt
def test_the_efi_route_takes_any_ovmf(archive: Archive, store: Store) -> None:
    assert "2022.11" in fetch(store, demand=firmware.PLAIN).source


@needs_apt
def test_a_package_without_the_image_is_no_firmware(archive: Archive, store: Store) -> None:
    archive.publish("sid", "ovmf", "2027.01-1", LICENCE)
    with pytest.raises(HostError, match=r"holds no usr/share/ovmf/OVMF\.fd"):
        fetch(store, "sid")
    assert not entries(store)


@needs_apt
@pytest.mark.tier("full")
@pytest.mark.parametrize("demand", [firmware.SNP, firmware.TDX])
def test_the_mirror_has_firmware_for_both_platforms(demand: firmware.Demand) -> None:
    """From the archives that this machine is configured for, not from one made here."""
    found = fetch(Store(), demand=demand)
    assert str(demand.metadata) in LiveHost().ovmf_table(str(found.path))
