# SPDX-License-Identifier: MIT
"""Real confidential-guest firmware under TCG: what it will not start is a MISS and no hang."""

from pathlib import Path

import pytest

from harness.base.status import HostError
from harness.guest.guest import Guest
from harness.guest.machine import Machine
from harness.image.keys import Keys
from tests.support.qemu_root import QemuRoot
from tests.support.real_qemu import RealQemu


def efi_program(path: Path) -> Path:
    """The start of a bzImage with an EFI stub that nobody signed: enough for firmware to refuse."""
    image = bytearray(1 << 16)
    image[0x1F1] = 1  # setup_sects (Documentation/arch/x86/boot.rst)
    image[0x1FE:0x200] = b"\x55\xaa"
    image[0x202:0x206] = b"HdrS"
    image[0x206:0x208] = (0x20F).to_bytes(2, "little")
    image[0x211] = 1  # loadflags: LOADED_HIGH
    image[0x236:0x238] = (0x3).to_bytes(2, "little")  # xloadflags: 64 bit, above 4 GiB
    image[0:2] = b"MZ"
    image[0x3C:0x40] = (0x80).to_bytes(4, "little")
    image[0x80:0x84] = b"PE\0\0"
    path.write_bytes(image)
    return path


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("OVMF.inteltdx.ms.fd", "Secure boot image verification failed"),
        ("OVMF.amdsev.fd", "No bootable option"),
    ],
)
def test_firmware_that_starts_no_kernel_is_a_miss_with_its_words(
    real: RealQemu, root: QemuRoot, tmp_path: Path, name: str, says: str
) -> None:
    initrd = tmp_path / "initrd"
    initrd.write_bytes(bytes(512))
    machine = Machine(
        real.qemu.binary,
        (
            ("-accel", "tcg"),
            ("-cpu", "max,la57=off"),
            ("-machine", "q35"),
            ("-m", "1G"),
            ("-bios", str(root.root / "usr/share/ovmf" / name)),
            ("-kernel", str(efi_program(tmp_path / "bzImage"))),
            ("-initrd", str(initrd)),
            ("-append", "console=ttyS0"),
        ),
        time_scale=4.0,
    )
    keys = Keys.generate(tmp_path / "keys")
    with (
        pytest.raises(HostError, match="the firmware started no kernel") as error,
        Guest(machine, tmp_path / "run", keys=keys),
    ):
        pytest.fail("firmware started what nobody signed")
    assert says in error.value.cause
    assert "--firmware" in error.value.hint
