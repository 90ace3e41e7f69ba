# SPDX-License-Identifier: MIT
"""Firmware that has run once starts any kernel: TDX and SEV-SNP under TCG."""

import dataclasses

import pytest

from harness.base.spec import AcceptMode, GuestSpec, SnapshotMode
from harness.base.status import Status
from harness.base.units import MIB
from harness.kernel.kernel import Kernel
from harness.run.run import Run
from harness.run.session import Session
from harness.targets.choose import guest_spec
from harness.workloads.touch import Touch

pytestmark = pytest.mark.guest
TOUCHED = 64 * MIB


@pytest.fixture(params=("tdx", "snp"))
def spec(request: pytest.FixtureRequest) -> GuestSpec:
    return guest_spec(target=request.param, accel="tcg", memory="1536M", vcpus=2)


def session_like(other: Session, mode: SnapshotMode) -> Session:
    return Session(store=other.store, runs=other.runs, snapshot=mode)


def judged(run: Run) -> Status:
    run.load(Touch(bytes=TOUCHED))
    outcome = run.conclude()
    assert outcome.status is Status.PASS, outcome.cause
    return outcome.status


def test_one_firmware_serves_other_kernels_modes_and_command_lines(
    cvm_session: Session, spec: GuestSpec
) -> None:
    session = session_like(cvm_session, SnapshotMode.FIRMWARE)
    kernels: list[Kernel] = [
        session.kernel_for(spec, f"debian-binary:{series}") for series in ("6.12", "7.3")
    ]
    eager = dataclasses.replace(spec, accept=AcceptMode.EAGER, extra_cmdline=("second",))
    digests = set()
    for kernel, shape in zip(kernels, (spec, eager), strict=True):
        with session.boot(session.prepare(shape, kernel)) as run:
            snapshot = run.directory.record["snapshot"]
            assert snapshot["used"], snapshot
            assert snapshot["of"] == "firmware"
            digests.add(snapshot["digest"])
            assert {"restored", "kernel_start", "init"} <= run.guest.boot.stages.keys()
            assert run.guest.run(["uname", "-r"]).text.strip() == kernel.release
            words = run.guest.boot.ready.cmdline.split()
            assert ("second" in words) is (shape is eager)
            unaccepted = run.guest.boot.init.nr_unaccepted_pages
            assert (unaccepted == 0) is (shape is eager)
            judged(run)
    assert len(digests) == 1


def test_templates_start_from_it_and_guests_from_them_are_what_booted_ones_are(
    cvm_session: Session, spec: GuestSpec
) -> None:
    session = session_like(cvm_session, SnapshotMode.AUTO)
    # A word that no other test has: the template is made here.
    own = dataclasses.replace(spec, extra_cmdline=("firmware-test",))
    prepared = session.prepare(own, session.kernel_for(own, "debian-binary:6.12"))
    with session.boot(prepared) as run:
        snapshot = run.directory.record["snapshot"]
        assert snapshot["used"], snapshot
        assert "restored" in snapshot["template_stages_ns"]
        judged(run)


def test_only_confidential_guests_under_tcg_have_one(cvm_session: Session) -> None:
    session = session_like(cvm_session, SnapshotMode.FIRMWARE)
    spec = guest_spec(target="emulated", memory="1G")
    prepared = session.prepare(spec, session.kernel_for(spec, "debian:6.12"))
    with session.boot(prepared) as run:
        assert not run.directory.record["snapshot"]["used"]
        assert "only firmware" in run.directory.record["snapshot"]["reason"]
        assert run.conclude().status is Status.PASS
