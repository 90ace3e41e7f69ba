# SPDX-License-Identifier: MIT
"""The emulation catches what hardware would: a touch of unaccepted memory, a second accept."""

import pytest

from harness.base.status import Status
from harness.run.run import Run
from harness.suite.plugin.fixtures import Boot

pytestmark = pytest.mark.guest
DEBUGFS = "/sys/kernel/debug/unaccepted_emulation"


def provoke(run: Run, selftest: str) -> None:
    run.guest.run(f"echo 1 > {DEBUGFS}/{selftest}", check=False)


@pytest.mark.parametrize(
    ("selftest", "counter", "splat"),
    [
        ("selftest_touch", "illegal_accesses", "ILLEGAL ACCESS to unaccepted memory"),
        ("selftest_double_accept", "double_accepts", "DOUBLE ACCEPT"),
    ],
)
def test_a_violation_from_inside_the_kernel_is_a_fail_with_its_splat(
    boot: Boot, selftest: str, counter: str, splat: str
) -> None:
    with boot() as run:
        provoke(run, selftest)
        outcome = run.conclude()

    assert outcome.status is Status.FAIL
    assert outcome.after.stat(counter) == 1
    console = next(check for check in outcome.checks if check.name == "console is clean")
    assert console.status is Status.FAIL
    assert splat in console.detail
    assert splat in run.guest.splats[0].line
    assert any("Call Trace" in line for line in run.guest.splats[0].context)
    located = run.directory.record["source_lines"]
    assert any("unaccepted_emulation.c:" in place for place in located.values()), located


def test_an_untouched_guest_has_no_violation(guest: Run) -> None:
    assert guest.before is not None
    assert guest.before.stat("strict") == 1
    assert guest.before.stat("illegal_accesses") == guest.before.stat("double_accepts") == 0
