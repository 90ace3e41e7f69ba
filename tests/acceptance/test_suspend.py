# SPDX-License-Identifier: MIT
"""Suspend: nothing is accepted by it, and a hibernation image is not copied from unaccepted memory.

Kernels have it with --fragment suspend; others skip.
"""

import re

import pytest

from harness.base.units import MAX_ORDER_PAGES, MIB, PAGE_SIZE
from harness.suite.subject import Subject

pytestmark = [
    pytest.mark.guest,
    pytest.mark.tier("full"),
    pytest.mark.acceptance(memory="1G", vcpus=2, features=("suspend",), unaccepted="256M"),
]
_IMAGE = re.compile(r"Image created \((\d{1,12}) pages copied, (\d{1,12}) zero pages\)")


def works_afterwards(subject: Subject) -> None:
    """CPUs and devices are back, and what is unaccepted can be used."""
    before = subject.soak()
    subject.touch((before.free_pages - before.unaccepted_pages) * PAGE_SIZE + 32 * MIB)
    subject.must_have_accepted(before, 28 * MIB)


@pytest.mark.parametrize("depth", ["devices", "platform"])
def test_suspending_to_idle_accepts_nothing(subject: Subject, depth: str) -> None:
    # pm_test goes as far as `depth`, waits, and comes back without anything to wake it.
    ready = subject.write("/sys/power/pm_test", depth)
    ready &= subject.write("/sys/module/suspend/parameters/pm_test_delay", "1")
    subject.require(ready, "the kernel cannot try suspending (CONFIG_PM_SLEEP_DEBUG)")
    before = subject.counters()
    suspended = subject.write("/sys/power/state", "freeze", deadline_s=120)
    subject.write("/sys/power/pm_test", "none")
    subject.verify("suspend", suspended, f"the kernel suspends as far as its {depth}, and resumes")
    fell = subject.accepted_since(before)
    detail = f"{fell} pages accepted by suspending and resuming"
    subject.verify("over-accepted", fell <= 4 * MAX_ORDER_PAGES, detail)
    works_afterwards(subject)


@pytest.mark.parametrize(
    "memory",
    [pytest.param(m, marks=pytest.mark.acceptance(memory=m)) for m in ("1G", "8G")],
)
@pytest.mark.acceptance(features=("hibernation",), reclaim=True, fresh=True)
def test_a_hibernation_image_leaves_unaccepted_memory_out(subject: Subject, memory: str) -> None:
    # No swap: the image is made in memory, and then there is nowhere to write it to. A fresh guest:
    # what other tests have soaked up is memory in use, which an image has to have room for.
    before = subject.counters()
    tried = subject.run.guest.run(
        "echo disk > /sys/power/state", deadline_s=240, check=False, max_output=4096
    )
    said = tried.stderr.decode(errors="replace").strip()[-100:]
    if "not permitted" in said:
        pytest.skip(f"the kernel may not hibernate: {said}")
    image = _IMAGE.search(subject.sh("dmesg | grep 'Image created' | tail -n 1", check=False))
    fell = subject.accepted_since(before)
    pages = int(image[1]) + int(image[2]) if image else 0
    subject.verify("hibernation", image is not None, f"an image is made, or: {said}")
    detail = (
        f"{fell} of {before.unaccepted_pages} unaccepted pages were accepted for an image of "
        f"{pages} pages"
    )
    subject.verify("over-accepted", fell <= 2 * pages + 16 * MAX_ORDER_PAGES, detail)
    touched = subject.touch(64 * MIB).touched_bytes
    subject.verify("hibernation", touched == 64 * MIB, f"{touched} bytes touched afterwards")
