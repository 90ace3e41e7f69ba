# SPDX-License-Identifier: MIT
"""A distribution's kernel, as its packages have it, with our initrd is a guest of the harness.

Booted by the line of a hardware target without the confidential object, under TCG: its modules
load in our init, the port and SSH answer, and counters and probes are what such a guest has.
"""

import dataclasses
from pathlib import Path

import pytest

from harness.base.spec import Accel
from harness.base.store import Store
from harness.collect.plan import Collect
from harness.collect.probes import ProbeTrace, accept_trace
from harness.guest.guest import Guest
from harness.guest.machine import Machine
from harness.host.hardware import SnpHost
from harness.image.build import build_image, compose_initrd
from harness.image.keys import Keys
from harness.image.modules import ModuleTree
from harness.kernel.build import build_kernel
from harness.kernel.kernel import Kernel, KernelRequest
from harness.kernel.packages import PackageNotFoundError
from harness.targets.base import BootFiles, HostFacts, check_kernel
from harness.targets.choose import guest_spec
from harness.targets.registry import target_for
from tests.support.real_qemu import RealQemu, unconfidential, without_kvm
from tests.support.robustness import power_off

pytestmark = pytest.mark.tier("full")


@pytest.mark.parametrize(
    ("source", "target", "traced"),
    [
        # Its SEV code is compiled without tracing.
        ("debian-binary:6.12", "snp", "fprobe, kprobes where snp_accept_memory() is called"),
        ("debian-binary:6.12", "tdx", "fprobe"),
        ("debian-binary:7.3", "tdx", "fprobe"),
        ("debian-binary:7.3-cloud", "snp", "fprobe"),
    ],
)
def test_a_distribution_kernel_boots_with_our_initrd_and_can_be_traced(
    source: str, target: str, traced: str, real: RealQemu, tmp_path: Path
) -> None:
    store = Store()
    try:
        kernel = build_kernel(KernelRequest(source), store)
    except PackageNotFoundError as error:
        pytest.skip(str(error))
    spec = guest_spec(target=target, memory="4G")
    check_kernel(target_for(spec.target), kernel)
    assert kernel.modules
    keys = Keys.generate(tmp_path / "keys")
    initrd = compose_initrd(build_image(store, (), kernel.modules), keys, tmp_path / "initrd")
    machine = machine_of(target, kernel, initrd, real)
    with Guest(machine, tmp_path / "run", keys=keys) as guest:
        init = guest.boot.init
        assert init.fields["release"] == guest.run("uname -r").text.strip() == kernel.release
        assert init.nr_unaccepted_pages == 0  # the counter is there, and nothing is left
        loaded = {line.split()[0] for line in guest.run("cat /proc/modules").text.splitlines()}
        assert set(ModuleTree(kernel.modules).chosen()) <= loaded
        assert not guest.splats
        trace = accept_trace(guest, spec, Collect())
        assert isinstance(trace, ProbeTrace)  # by itself: no kernel but ours has the event
        trace.begin(blocks=16, buffer_kib=None)
        trace.pause()
        assert trace.save(tmp_path).source == f"probes ({traced})"
        power_off(guest, deadline_s=120)


def machine_of(target: str, kernel: Kernel, initrd: Path, real: RealQemu) -> Machine:
    """The target's line for `kernel`, as far as it goes without the hardware."""
    spec = guest_spec(target=target, memory="4G")
    host = HostFacts(real.qemu, Accel.KVM, "contract", snp=SnpHost(51, True, 99, 0))
    files = BootFiles(kernel.bzimage, initrd, Path("/dev/null"))
    machine = without_kvm(target_for(spec.target).machine(spec, files, host))
    direct = [option for option in machine.args if option[0] in ("-kernel", "-initrd", "-append")]
    args = (*unconfidential(machine), *direct)
    return dataclasses.replace(machine, args=args, time_scale=4.0)
