# SPDX-License-Identifier: MIT
"""Firmware is chosen by descriptor and metadata; each candidate that is not has its reason."""

import dataclasses
import json
import lzma
import struct
import uuid
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.base.status import HostError, UsageError
from harness.host import firmware, ovmf
from harness.host.firmware import find_firmware
from harness.host.view import LiveHost


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is learnt of an image is kept in the cache."""
    monkeypatch.setenv("CVM_HARNESS_CACHE", str(tmp_path / "cache"))


FOOTER = uuid.UUID("96b582de-1fb2-45f7-baea-a366c55a082d")


def image(**entries: bytes) -> bytes:
    """An image with a GUIDed table: entry names are GUIDs in hex."""
    table = b""
    for guid, data in entries.items():
        tail = struct.pack("<H", len(data) + 18) + uuid.UUID(guid).bytes_le
        table = data + tail + table
    table += struct.pack("<H", len(table) + 18) + FOOTER.bytes_le
    return b"\xff" * 4096 + table + b"\0" * 32


def packed(drivers: bytes, long: bool = False) -> bytes:
    """A section of LZMA, with a short or a long header."""
    data = lzma.compress(drivers, format=lzma.FORMAT_ALONE)
    body = ovmf.LZMA_SECTION.bytes_le
    if long:
        size = 28 + len(data)
        header = b"\xff\xff\xff\x02" + struct.pack("<I", size)
        return header + body + struct.pack("<HH", 28, 1) + data
    size = 24 + len(data)
    return size.to_bytes(3, "little") + b"\x02" + body + struct.pack("<HH", 24, 1) + data


LAZY = packed(b"driver" + ovmf.SEV_ACCEPT_PROTOCOL.bytes_le + b"more")
EAGER = packed(b"a driver that accepts everything")
SNP_IMAGE = image(
    **{ovmf.SEV_METADATA.hex: b"\1\0\0\0", ovmf.SEV_HASH_TABLE.hex: b"\0\x0c\x81\0\0\4\0\0"}
)
PLAIN_IMAGE = image(**{ovmf.SEV_METADATA.hex: b"\1\0\0\0", ovmf.SEV_HASH_TABLE.hex: bytes(8)})


def test_the_guided_table_is_read_from_the_end() -> None:
    assert ovmf.guided_table(SNP_IMAGE) == {
        ovmf.SEV_METADATA: b"\1\0\0\0",
        ovmf.SEV_HASH_TABLE: b"\0\x0c\x81\0\0\4\0\0",
    }
    assert ovmf.guided_table(b"\xff" * 4096) == {}
    assert ovmf.guided_table(b"") == {}


@given(st.binary(max_size=200), st.integers(0, 0xFFFF))
def test_no_image_makes_the_reader_fail(data: bytes, size: int) -> None:
    ovmf.guided_table(data)
    ovmf.guided_table(data + struct.pack("<H", size) + FOOTER.bytes_le + b"\0" * 32)


@pytest.mark.parametrize("long", [False, True])
def test_drivers_are_unpacked_to_see_what_they_know(long: bool) -> None:
    guid = ovmf.SEV_ACCEPT_PROTOCOL
    drivers = b"x" * 5000 + guid.bytes_le
    assert ovmf.drivers_mention(b"\xff" * 99 + packed(drivers, long) + SNP_IMAGE, guid) is True
    assert ovmf.drivers_mention(EAGER + packed(drivers, long), guid) is True
    assert ovmf.drivers_mention(EAGER + SNP_IMAGE, guid) is False
    assert ovmf.drivers_mention(SNP_IMAGE, guid) is None
    assert ovmf.drivers_mention(LAZY[:40], guid) in (None, False)


@given(st.binary(max_size=100), st.integers(0, 0xFFFF), st.binary(max_size=60))
def test_no_section_makes_the_reader_fail(before: bytes, offset: int, data: bytes) -> None:
    section = b"\0\0\1\2" + ovmf.LZMA_SECTION.bytes_le + struct.pack("<H", offset)
    ovmf.drivers_mention(before + section + data, ovmf.SEV_ACCEPT_PROTOCOL)


def descriptor(path: Path, filename: Path, **changes: object) -> None:
    content = {
        "mapping": {"device": "memory", "filename": str(filename)},
        "targets": [{"architecture": "x86_64", "machines": ["pc-q35-*"]}],
        "features": ["amd-sev-snp", "verbose-dynamic"],
        **changes,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


@pytest.fixture
def good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(firmware, "PLAIN_IMAGES", (tmp_path / "plain.fd",))
    path = tmp_path / "good.fd"
    path.write_bytes(SNP_IMAGE)
    return path


def test_the_first_by_name_that_fits_is_taken(tmp_path: Path, good: Path) -> None:
    descriptor(tmp_path / "d/60-b.json", good)
    descriptor(tmp_path / "d/50-a.json", good, features=["acpi-s3"])
    found = find_firmware(firmware.SNP, LiveHost(), None, [tmp_path / "d"])
    assert found.path == good
    assert found.kernel_hashes
    assert found.source.endswith("60-b.json")
    assert found.rejected == (f"{tmp_path}/d/50-a.json: it does not claim amd-sev-snp",)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"features": []}, "does not claim amd-sev-snp"),
        ({"targets": [{"architecture": "aarch64", "machines": ["virt-*"]}]}, "not for x86_64"),
        ({"targets": [{"architecture": "x86_64", "machines": ["pc-i440fx-*"]}]}, "not for x86_64"),
        ({"features": ["amd-sev-snp", "requires-smm"]}, "needs SMM"),
        ({"features": ["amd-sev-snp", "enrolled-keys"]}, "would not start an unsigned kernel"),
        (
            {
                "mapping": {
                    "device": "flash",
                    "executable": {"filename": "/x"},
                    "nvram-template": {},
                }
            },
            "pflash",
        ),
        ({"mapping": {"device": "kernel", "filename": "/x"}}, "to be mapped as kernel"),
        ({"mapping": {"device": "memory"}}, "names no image"),
        ({"mapping": {"device": "memory", "filename": "/nowhere.fd"}}, "cannot read /nowhere.fd"),
        ({"mapping": 7, "targets": 7, "features": 7}, "cannot be read: Expected `object`"),
    ],
)
def test_each_reason_to_pass_a_candidate_over_is_given(
    tmp_path: Path, good: Path, changes: dict[str, object], why: str
) -> None:
    descriptor(tmp_path / "d/50-a.json", good, **changes)
    with pytest.raises(HostError, match="no firmware for amd-sev-snp") as error:
        find_firmware(firmware.SNP, LiveHost(), None, [tmp_path / "d"])
    assert why in error.value.details[0]
    assert "--firmware" in error.value.hint


def test_a_stateless_flash_image_will_do(tmp_path: Path, good: Path) -> None:
    executable = {"filename": str(good), "format": "raw"}
    mapping = {"device": "flash", "mode": "stateless", "executable": executable}
    descriptor(tmp_path / "d/60-a.json", tmp_path, mapping=mapping)
    assert find_firmware(firmware.SNP, LiveHost(), None, [tmp_path / "d"]).path == good


def test_an_earlier_directory_masks_a_descriptor_even_by_an_empty_file(
    tmp_path: Path, good: Path
) -> None:
    descriptor(tmp_path / "packages/60-a.json", good)
    (tmp_path / "admin").mkdir()
    (tmp_path / "admin/60-a.json").write_text("")
    with pytest.raises(HostError) as error:
        find_firmware(firmware.SNP, LiveHost(), None, [tmp_path / "admin", tmp_path / "packages"])
    assert "switches off" in error.value.details[0]


def test_plain_ovmf_with_the_metadata_is_the_last_resort(tmp_path: Path, good: Path) -> None:
    (tmp_path / "plain.fd").write_bytes(PLAIN_IMAGE)
    found = find_firmware(firmware.SNP, LiveHost(), None, [tmp_path / "none"])
    assert found.path == tmp_path / "plain.fd"
    assert not found.kernel_hashes
    with pytest.raises(HostError, match="no firmware for intel-tdx") as error:
        find_firmware(firmware.TDX, LiveHost(), None, [tmp_path / "none"])
    assert "has no metadata for intel-tdx" in error.value.details[0]


def test_plain_ovmf_that_accepts_everything_is_passed_over_unless_asked_for(
    tmp_path: Path, good: Path
) -> None:
    plain = tmp_path / "plain.fd"
    plain.write_bytes(EAGER + PLAIN_IMAGE)
    with pytest.raises(HostError) as error:
        find_firmware(firmware.SNP, LiveHost(), None, [tmp_path / "none"])
    assert "accepts all memory itself" in error.value.details[0]
    assert find_firmware(firmware.SNP, LiveHost(), plain).path == plain
    plain.write_bytes(LAZY + PLAIN_IMAGE)
    assert find_firmware(firmware.SNP, LiveHost(), None, [tmp_path / "none"]).path == plain


def test_what_insists_on_kernel_hashes_is_not_for_a_platform_without(
    tmp_path: Path, good: Path
) -> None:
    descriptor(tmp_path / "d/60-amdsev.json", good)
    (tmp_path / "plain.fd").write_bytes(SNP_IMAGE)  # has room for them, and does not insist
    demand = dataclasses.replace(firmware.SNP, kernel_hashes=False)
    found = find_firmware(demand, LiveHost(), None, [tmp_path / "d"])
    assert found.path == tmp_path / "plain.fd"
    assert "by its hash only" in found.rejected[0]


def test_a_firmware_asked_for_must_be_one(tmp_path: Path, good: Path) -> None:
    assert find_firmware(firmware.SNP, LiveHost(), good).source == "asked for"
    with pytest.raises(UsageError, match="no metadata for intel-tdx"):
        find_firmware(firmware.TDX, LiveHost(), good)
    with pytest.raises(UsageError, match="cannot read"):
        find_firmware(firmware.SNP, LiveHost(), tmp_path / "missing.fd")
