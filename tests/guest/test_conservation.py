# SPDX-License-Identifier: MIT
"""Every unit is accounted for: marked = accepted (trace) + pending (table) = the back end's count.

On both kernel series and both boot routes. On a kernel without the feature nothing is marked, and
the run is ERROR before it gets to judge.
"""

import pytest

from harness.analysis.analyse import Analysis
from harness.base.spec import AcceptMode, GuestSpec
from harness.base.status import Status
from harness.base.units import GIB, MAX_ORDER_PAGES, MIB, PAGE_SIZE
from harness.record.check import Check
from harness.run.session import Session
from harness.targets.choose import guest_spec
from harness.workloads.touch import Touch

pytestmark = pytest.mark.guest
TOUCHED = 768 * MIB


def run_touch(session: Session, spec: GuestSpec, kernel: str, rerun: str) -> Analysis:
    prepared = session.prepare(spec, session.kernel_for(spec, kernel))
    with session.boot(prepared, rerun=rerun) as run:
        run.load(Touch(bytes=TOUCHED, step=TOUCHED // 3))
        return run.conclude()


def found(outcome: Analysis, name: str) -> Check:
    return next(check for check in outcome.checks if check.name.startswith(name))


@pytest.mark.parametrize(("route", "memory"), [("direct", "2G"), ("efi", "2G"), ("efi", "5002M")])
@pytest.mark.parametrize("kernel", ["debian:6.12", "debian:7.3"])
def test_lazy_guest_conserves_every_unit(
    cvm_session: Session, kernel: str, route: str, memory: str, request: pytest.FixtureRequest
) -> None:
    # With 5002M firmware's table has edges inside blocks.
    spec = guest_spec(memory=memory, route=route)
    outcome = run_touch(cvm_session, spec, kernel, f"pytest '{request.node.nodeid}'")

    assert outcome.status is Status.PASS, outcome.cause
    for name in ("units conserved", "trace accounts", "table bounds", "counters agree"):
        assert found(outcome, name).status is Status.PASS
    fell = outcome.before.unaccepted_pages - outcome.after.unaccepted_pages
    free_and_accepted = outcome.before.free_pages - outcome.before.unaccepted_pages
    # What was touched came from accepted free memory first, the rest had to be accepted.
    assert fell >= TOUCHED // PAGE_SIZE - free_and_accepted - MAX_ORDER_PAGES
    assert fell > 0
    assert outcome.accepts is not None
    assert outcome.accepts.summary.calls >= fell // MAX_ORDER_PAGES


def test_eager_guest_has_nothing_left_at_init(
    cvm_session: Session, request: pytest.FixtureRequest
) -> None:
    spec = guest_spec(memory="1G", accept=AcceptMode.EAGER.value)
    outcome = run_touch(cvm_session, spec, "debian:6.12", f"pytest '{request.node.nodeid}'")

    assert outcome.status is Status.PASS, outcome.cause
    assert outcome.before.unaccepted_pages == 0
    assert outcome.after.stat("backend_pending") == 0
    assert outcome.after.stat("accept_units") > GIB // (2 * MIB) // 2
