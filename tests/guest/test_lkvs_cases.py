# SPDX-License-Identifier: MIT
"""Every acceptance case of LKVS on a real guest: it passes there, and nowhere without the feature.

pytest tests/guest/test_lkvs_cases.py                # all cases
cvm-harness run lkvs --case FUNC                     # one of them
"""

import pytest

from harness.analysis.analyse import Analysis
from harness.base.emulation import Emulation, Route
from harness.base.spec import AcceptMode, GuestSpec
from harness.base.status import PreconditionError, Status
from harness.base.units import GIB
from harness.suite.plugin.fixtures import Boot
from harness.workloads.lkvs import CASES, Lkvs

pytestmark = pytest.mark.guest

SMALL_DRAIN = "T_2C_1G_2W"
ALL = [SMALL_DRAIN if case.startswith("T_") else case for case in CASES]
NEEDS_ACCEPTANCE = [case for case in ALL if case not in ("KCONFIG", "NEG")]


def verdict_of(found: Analysis, case: str) -> Status:
    """Of the case itself, whatever else was checked in its run."""
    return next(check.status for check in found.checks if check.name == f"LKVS {case}")


def spec_for(spec: GuestSpec, load: Lkvs) -> GuestSpec:
    """The guest of one case. KEXEC's table is handed over only on the EFI route."""
    spec = load.adapted(spec)
    if load.replaces_kernel:
        return GuestSpec(memory=2 * GIB, vcpus=1, emulation=Emulation(route=Route.EFI))
    return spec


@pytest.mark.parametrize("case", ALL)
def test_each_case_passes_on_a_lazy_guest(boot: Boot, cvm_spec: GuestSpec, case: str) -> None:
    load = Lkvs(case=case)
    with boot(spec=spec_for(cvm_spec, load), layers=load.layers) as run:
        run.load(load)
        outcome = run.conclude()
    assert verdict_of(outcome, case) is Status.PASS, outcome.cause
    assert outcome.status is Status.PASS, outcome.cause


def test_no_case_passes_where_everything_was_accepted_at_boot(boot: Boot) -> None:
    """LKVS' own checks pass there: nothing is equal to nothing, and 0 is reached at once."""
    seen: dict[str, Status] = {}
    with boot(accept=AcceptMode.EAGER, layers=("stress-ng", "kexec")) as run:
        for case in NEEDS_ACCEPTANCE:
            try:
                run.load(Lkvs(case=case))
            except PreconditionError as error:
                seen[case] = error.status
        outcome = run.conclude()
    for check in outcome.checks:
        if check.name.startswith("LKVS "):
            seen[check.name.removeprefix("LKVS ")] = check.status
    assert seen == dict.fromkeys(NEEDS_ACCEPTANCE, Status.ERROR)
    assert outcome.status is Status.ERROR


@pytest.mark.parametrize("append", ["unaccepted_emulation=route=nowhere", "accept_memory=eager"])
def test_a_guest_that_has_not_got_what_was_asked_for_is_an_error_before_any_case(
    boot: Boot, append: str
) -> None:
    with (
        pytest.raises(PreconditionError, match="does not prove to be what was asked for"),
        boot(extra_cmdline=(append,)),
    ):
        pytest.fail("a guest without lazy acceptance proved to have it")
