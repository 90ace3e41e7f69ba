# SPDX-License-Identifier: MIT
"""A real distribution, booted from its disk by a hardware target's line, can be tested.

The line is the target's own without the confidential object, under TCG; the disk is Debian,
installed here with cloud-init. Seed, ready port, keys and measuring program are what a hardware
host would use.
"""

import dataclasses
import re
from pathlib import Path

import pytest

from harness.base.spec import Accel
from harness.base.store import Store
from harness.guest.guest import Guest
from harness.guest.machine import Machine
from harness.host.hardware import SnpHost
from harness.image.build import build_program
from harness.image.keys import Keys
from harness.image.seed import write_seed
from harness.targets.base import BootFiles, HostFacts
from harness.targets.choose import guest_spec
from harness.targets.registry import target_for
from tests.support.distribution_disk import disk_image
from tests.support.real_qemu import RealQemu, unconfidential, without_kvm
from tests.support.robustness import power_off

FIRMWARE = Path("/usr/share/ovmf/OVMF.fd")
BOOT_DEADLINE_S = 600.0
"""systemd and cloud-init under TCG: two boots and the image took 520 s beside other work."""

pytestmark = [
    pytest.mark.tier("full"),
    pytest.mark.skipif(not FIRMWARE.exists(), reason="needs Debian's package ovmf"),
]


@pytest.mark.parametrize("target", ["snp", "tdx"])
def test_a_distribution_boots_from_its_disk_and_is_measured(
    target: str, real: RealQemu, tmp_path: Path
) -> None:
    store = Store()
    disk = disk_image(store)
    before = disk.stat().st_mtime_ns
    keys = Keys.generate(tmp_path / "keys")
    program = build_program(store).read_bytes()
    seed = write_seed(tmp_path / "seed", keys, program, tmp_path.name)
    nothing = Path("/dev/null")
    files = BootFiles(nothing, nothing, FIRMWARE, seed)
    machine = machine_of(target, disk, files, real)
    with Guest(machine, tmp_path / "run", keys=keys, boot_deadline_s=BOOT_DEADLINE_S) as guest:
        assert guest.boot.init.fields["release"] == guest.run("uname -r").text.strip()
        assert guest.run("cat /etc/hostname").text.strip() == "cvm"
        counters = guest.run("cvm counters").text
        assert re.search(r"\bnr_free_pages\b", counters)
        power_off(guest, deadline_s=120)
    assert disk.stat().st_mtime_ns == before  # changes go to a file of QEMU's


def machine_of(target: str, disk: Path, files: BootFiles, real: RealQemu) -> Machine:
    """The target's line for `disk`, as far as it goes without the hardware."""
    spec = guest_spec(target=target, memory="4G", disk=str(disk))
    host = HostFacts(real.qemu, Accel.KVM, "contract", snp=SnpHost(51, True, 99, 0))
    machine = without_kvm(target_for(spec.target).machine(spec, files, host))
    args = [*unconfidential(machine), ("-bios", str(FIRMWARE))]
    return dataclasses.replace(machine, args=tuple(args), time_scale=4.0)
