# SPDX-License-Identifier: MIT
"""CPUs come and go while memory is accepted: acceptance takes no lock that CPU hotplug holds."""

from __future__ import annotations

import pytest

from harness.status import GuestFailure, HarnessError
from harness.suite.features import HOOK
from harness.suite.subject import Subject
from harness.units import MAX_ORDER_PAGES

CPU = "/sys/devices/system/cpu/cpu1/online"
pytestmark = [
    pytest.mark.guest,
    pytest.mark.acceptance(memory="1G", vcpus=2, fresh=True, spoils=True, features=("hook",)),
]
# Builtins only: a process that is started would have the last block accepted by itself.
_CYCLE = f"""
cycles=0
while [ $cycles -lt 400 ]; do
    echo 0 > {CPU} && echo 1 > {CPU} || exit 3
    echo 'alloc order=0 count=STEP' > {HOOK}/command
    cycles=$((cycles + 1))
    while read name value; do
        case $name in nr_unaccepted) left=$value; break;; esac
    done < /proc/vmstat
    [ $left = 0 ] && break
done
echo $cycles $left
"""
_STEP_PAGES = 8
_FEW_BLOCKS = 8
_MOST_STEPS = 150
DEADLINE_S = 30
"""For all cycles; one takes about 0.1 s on a quiet machine."""


def leave_one_block(subject: Subject) -> None:
    """Use up the zone until one block is unaccepted.

    In small steps at the end: below the watermark the allocator accepts as many blocks at a time as
    an allocation left it short of (cond_accept_memory() in mm/page_alloc.c).
    """
    for _ in range(_MOST_STEPS):
        left = subject.counters().unaccepted_pages // MAX_ORDER_PAGES
        if left <= 1:
            break
        if left > _FEW_BLOCKS:
            subject.hook("alloc", order=10, count=(left - _FEW_BLOCKS + 1) * 7 // 8, gfp="noretry")
        else:
            subject.hook("alloc", order=4, count=8, gfp="noretry")
    left = subject.counters().unaccepted_pages
    subject.require(left == MAX_ORDER_PAGES, f"{left} pages unaccepted, wanted one block")


@pytest.mark.tier("full")
def test_cpus_come_up_while_a_zones_last_block_is_accepted(subject: Subject) -> None:
    subject.require(subject.write(CPU, "1"), "CPU 1 cannot be taken up and down")
    subject.soak()
    leave_one_block(subject)
    cycle = subject.run.guest.start(_CYCLE.replace("STEP", str(_STEP_PAGES)))
    try:
        subject.run.guest.wait(
            "CPU 1 to come up", lambda: None if cycle.running else True, deadline_s=DEADLINE_S
        )
    except HarnessError as error:
        # Reading counters would hang as well: this is the verdict.
        raise GuestFailure(f"a CPU hung on its way up or down: {error.cause}") from error
    done = cycle.wait()
    subject.require(done.exit_status == 0, f"CPU 1 did not come up: {done.text[-200:]}")
    cycles, left = (int(word) for word in done.text.split())
    subject.require(left == 0, f"the last block was still unaccepted after {cycles} cycles")
    subject.verify("cpu-hotplug", True, f"the last block was accepted in cycle {cycles}")
