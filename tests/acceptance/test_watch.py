# SPDX-License-Identifier: MIT
"""No CPU is kept from its work for long: the kernel's own watchdogs, set tight, stay silent."""

import pytest

from harness.base.units import MIB
from harness.suite.subject import Subject
from tests.support.guest_marks import MANY

pytestmark = [pytest.mark.guest, MANY]
_TIGHT = (
    "echo 5 > /proc/sys/kernel/watchdog_thresh; "
    "echo 20 > /proc/sys/kernel/hung_task_timeout_secs; "
    "echo 10 > /sys/module/rcupdate/parameters/rcu_cpu_stall_timeout; "
    "cat /proc/sys/kernel/watchdog_thresh /proc/sys/kernel/hung_task_timeout_secs"
)


@pytest.mark.tier("full")
@pytest.mark.acceptance(unaccepted="1G")
def test_dear_acceptance_on_all_cpus_trips_no_watchdog(subject: Subject) -> None:
    got = subject.sh(_TIGHT).split()
    subject.require(got == ["5", "20"], f"the watchdogs took no thresholds: {got}")
    before = subject.soak()
    subject.set_cost(20_000_000)
    subject.sh(f"cvm touch --bytes {768 * MIB} --processes 8", deadline_s=240)
    subject.must_have_accepted(before, 256 * MIB)
    # What they would have said is a report on the console, which is judged after every test.
    said = [s.kind.value for s in subject.run.guest.splats]
    subject.verify("watchdog", not said, f"reports on the console: {said}")
