# SPDX-License-Identifier: MIT
"""A kernel that is built here is a TDX and an SEV-SNP guest: with the accept event and the test
hooks where patches are carried, and as upstream has it without.

Under TCG; one build serves both platforms, and a second one, without patches, shares its objects.
"""

import pytest

from harness.analysis.analyse import Analysis
from harness.base.spec import GuestSpec
from harness.base.status import PreconditionError, Status
from harness.base.units import MIB, PAGE_SIZE
from harness.run.run import Run
from harness.run.session import Session
from harness.suite.features import missing_feature
from harness.suite.hook import run_hook
from harness.suite.operations import FINDINGS
from harness.suite.plugin.fixtures import Boot
from harness.targets.choose import guest_spec
from harness.workloads.touch import Touch

pytestmark = [pytest.mark.guest, pytest.mark.tier("full")]
PLATFORMS = ("tdx", "snp")
SOURCE = "debian:6.12"
TOUCHED = 192 * MIB


@pytest.fixture(params=PLATFORMS)
def spec(request: pytest.FixtureRequest) -> GuestSpec:
    return guest_spec(target=request.param, accel="tcg", memory="1536M", vcpus=2)


def judged(run: Run) -> Analysis:
    """The verdict after memory was touched, some of which had to be accepted."""
    before = run.counters().unaccepted_pages
    run.load(Touch(bytes=TOUCHED))
    outcome = run.conclude()
    assert outcome.status is Status.PASS, outcome.cause
    assert outcome.after.unaccepted_pages < before
    return outcome


def test_the_accept_event_and_the_hooks_work_in_confidential_guests(
    boot: Boot, cvm_session: Session, spec: GuestSpec
) -> None:
    kernel = cvm_session.kernel_for(spec, SOURCE)
    with boot(spec=spec, kernel=kernel) as run:
        assert run.traced
        assert missing_feature(run, ("hook",)) == ""
        before = run.counters().unaccepted_pages
        run_hook(run.guest, "soak", {"size": 4 * MIB})
        pages = run_hook(run.guest, "alloc", {"order": 9, "count": 16})
        assert pages["failed"] == pages["corrupt"] == 0
        assert run.counters().unaccepted_pages <= before - 16 * 2 * MIB // PAGE_SIZE
        scan = run_hook(run.guest, "scan", {})
        assert not any(scan[name] for name in FINDINGS), scan
        run_hook(run.guest, "free", {})
        outcome = judged(run)
    assert outcome.trace_source == "event"


def test_without_carried_patches_it_is_measured_through_probes(
    boot: Boot, cvm_session: Session, spec: GuestSpec
) -> None:
    kernel = cvm_session.kernel_for(spec, SOURCE, carried=False)
    assert kernel.provenance["patches"] == []
    with boot(spec=spec, kernel=kernel) as run:
        assert not run.traced
        assert "accept-test" in missing_feature(run, ("hook",))
        outcome = judged(run)
    assert outcome.trace_source == "probes"


def test_the_emulated_target_cannot_do_without_them(cvm_session: Session) -> None:
    spec = guest_spec(target="emulated")
    with pytest.raises(PreconditionError, match="UNACCEPTED_MEMORY_EMULATION"):
        cvm_session.prepare(spec, cvm_session.kernel_for(guest_spec(target="tdx"), SOURCE))
