# SPDX-License-Identifier: MIT
"""Which accelerator works here, found out by booting a 512-byte guest: on some nested machines KVM
creates a VM, and then QEMU aborts, or the guest hangs, or its kernel is emulated (kvm_pvm)."""

import json
import os
import platform
import signal
import subprocess
import tempfile
import threading
from dataclasses import asdict, dataclass
from pathlib import Path

from harness.base.reader import read_json
from harness.base.spec import Accel, Clock
from harness.base.status import HostError
from harness.base.store import Store, digest_of
from harness.host.lease import host_boot_id
from harness.host.refusals import KVM_GAVE_UP
from harness.qemu.binary import Qemu

# guest-images/accel-probe/probe.S, assembled: to long mode, some work, then 0x2a to port 0xf4.
_CODE = bytes.fromhex(
    "fa31c08ed88ec0bf0010b90018fcf3ab66c70600100320000066c70600200330000066c706003083"
    "00000066b8200000000f22e066b8001000000f22d866b9800000c00f32660d000100000f300f0116"
    "a07c66b8010000800f22c0ea607c0800b8010000000fa20fbae10d730abf00400000f0480fc70fb9"
    "00e1f505ffc975fc66baf400b02aeef4ebfd660f1f440000000000000000000000000000009a2000"
    "0f00907c"
)
BOOT_SECTOR = _CODE.ljust(510, b"\0") + b"\x55\xaa"
_ALIVE = (0x2A << 1) | 1
"""isa-debug-exit ends QEMU with (value << 1) | 1 (QEMU hw/misc/debugexit.c)."""
DEADLINE_S = 10.0


@dataclass(frozen=True)
class AccelProbe:
    kvm_works: bool
    evidence: str
    timed_out: bool = False


def probe_kvm(qemu: Qemu, store: Store, patience_s: float = DEADLINE_S) -> AccelProbe:
    """Boot the probe guest under KVM once per (guest, QEMU, kernel, boot); remember the answer, but
    not silence in less `patience_s` than usual."""
    host = (platform.release(), host_boot_id(), os.getuid())
    digest = digest_of(BOOT_SECTOR.hex(), str(qemu.binary), qemu.version, *host)

    def run(directory: Path) -> None:
        probe = _boot_probe(qemu, patience_s)
        if probe.timed_out and patience_s < DEADLINE_S:
            raise TimeoutError(probe.evidence)
        (directory / "probe.json").write_text(json.dumps(asdict(probe)))

    try:
        entry = store.fetch("accel-probe", digest, run)
    except TimeoutError as given_up:
        return AccelProbe(False, str(given_up), timed_out=True)
    return read_json(entry / "probe.json", AccelProbe)


def _boot_probe(qemu: Qemu, deadline_s: float) -> AccelProbe:
    device = Path("/dev/kvm")
    if not device.exists():
        return AccelProbe(False, "/dev/kvm does not exist")
    if not os.access(device, os.R_OK | os.W_OK):
        return AccelProbe(False, "/dev/kvm is not readable and writable by this user")
    with tempfile.NamedTemporaryFile(prefix="cvm-probe-") as image:
        image.write(BOOT_SECTOR)
        image.flush()
        command = [
            *("setpriv", "--pdeathsig", "KILL", "--"),  # a hung probe must not outlive us
            str(qemu.binary),
            *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
            *("-accel", "kvm", "-cpu", "host", "-m", "32M"),
            *("-drive", f"file={image.name},format=raw,if=floppy,snapshot=on"),
            *("-device", "isa-debug-exit,iobase=0xf4,iosize=4"),
        ]
        return _judge(*_run(command, deadline_s), deadline_s)


def _run(command: list[str], deadline_s: float) -> tuple[int, str]:
    """QEMU's exit status and what it said; it is killed at the deadline, or when KVM gave up."""
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, errors="replace") as process:
        killer = threading.Timer(deadline_s, process.kill)
        killer.start()
        said = []
        for line in process.stderr or ():
            said.append(line.strip())
            if KVM_GAVE_UP in line:
                process.kill()
        killer.cancel()
        return process.wait(), "; ".join(filter(None, said[:2]))


def _judge(status: int, said: str, deadline_s: float) -> AccelProbe:
    if status == _ALIVE:
        return AccelProbe(True, "a probe guest got to long mode under KVM and worked there")
    if KVM_GAVE_UP in said:
        return AccelProbe(False, f"KVM could not run a probe guest: {said}")
    if status == -signal.SIGKILL:
        evidence = f"a probe guest under KVM was not done in {deadline_s:g} s"
        return AccelProbe(False, evidence, timed_out=True)
    evidence = f"a probe guest under KVM ended QEMU with status {status}"
    return AccelProbe(False, evidence + (f": {said}" if said else ""))


def choose_accel(asked: Accel, clock: Clock, qemu: Qemu, store: Store) -> tuple[Accel, str]:
    """The accelerator to use and why. Raises HostError if KVM was asked for and cannot be had."""
    if asked is Accel.TCG:
        return Accel.TCG, "asked for"
    if clock is Clock.ICOUNT:
        return Accel.TCG, "the icount clock needs TCG"
    probe = probe_kvm(qemu, store)
    if probe.kvm_works:
        return Accel.KVM, probe.evidence
    if asked is Accel.KVM:
        raise HostError(
            f"KVM does not work here: {probe.evidence}",
            hint="use --accel=tcg (slower, works everywhere) or --accel=auto",
        )
    return Accel.TCG, probe.evidence
