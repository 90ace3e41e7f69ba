# SPDX-License-Identifier: MIT
"""The test hooks as a module in a distribution's kernel, on QEMU's TDX and SEV-SNP platforms."""

import pytest

from harness.base.spec import GuestSpec
from harness.base.units import MIB, UNIT_SIZE
from harness.run.run import Run
from harness.run.session import Session
from harness.suite.features import missing_feature
from harness.suite.hook import HookRefused, run_hook
from harness.suite.plugin.fixtures import Boot
from harness.targets.choose import guest_spec

pytestmark = pytest.mark.guest

SIZE = 16 * MIB
FINDINGS = ("listed_without_type", "listed_not_pending", "zone_counter_wrong", "free_but_pending")


@pytest.fixture(params=["tdx debian-binary:6.12", "snp debian-binary:7.3"])
def asked(request: pytest.FixtureRequest, cvm_spec: GuestSpec) -> tuple[GuestSpec, str]:
    """A small guest and its kernel; only on the command line's platform, if that is one."""
    target, kernel = request.param.split()
    if cvm_spec.target.value in ("tdx", "snp") and cvm_spec.target.value != target:
        pytest.skip(f"the command line asks for {cvm_spec.target.value}")
    return guest_spec(target=target, accel="tcg", memory="1536M", vcpus=2), kernel


def pending_units(run: Run) -> int:
    assert run.platform
    return sum(each.end - each.start for each in run.platform.pending()) // UNIT_SIZE


def test_hooks_are_loaded_and_do_what_the_kernels_own_do(
    boot: Boot, cvm_session: Session, asked: tuple[GuestSpec, str]
) -> None:
    spec, source = asked
    kernel = cvm_session.kernel_for(spec, source)
    assert kernel.has("UNACCEPTED_MEMORY_TEST") is False
    with boot(spec=spec, kernel=kernel) as run:
        assert missing_feature(run, ("hook",)) == ""
        assert "comes before modules" in missing_feature(run, ("hook-early",))
        assert run.directory.record["hook_module"]
        guest = run.guest

        scan = run_hook(guest, "scan", {})
        assert scan["pending_units"] == pending_units(run)
        assert [scan[name] for name in FINDINGS] == [0] * len(FINDINGS)

        run_hook(guest, "soak", {"size": 4 * MIB})
        before = pending_units(run)
        figures = run_hook(guest, "alloc", {"order": 9, "count": SIZE // UNIT_SIZE, "cpus": 2})
        assert (figures["done"], figures["corrupt"]) == (2 * SIZE // UNIT_SIZE, 0)
        assert before - pending_units(run) >= SIZE // UNIT_SIZE
        run_hook(guest, "free", {})

        assert run.platform
        start = max(run.platform.pending(), key=lambda each: each.end - each.start).start
        place = {"start": start + 4 * UNIT_SIZE, "size": SIZE, "stride": SIZE // 2, "cpus": 2}
        figures = run_hook(guest, "accept", place)
        assert (figures["done"], figures["failed"]) == (2, 0)
        assert not any(
            each.start < start + 4 * UNIT_SIZE + SIZE * 3 // 2 and start + 4 * UNIT_SIZE < each.end
            for each in run.platform.pending()
        )
        with pytest.raises(HookRefused, match="refused 'nonsense'"):
            run_hook(guest, "nonsense", {})
