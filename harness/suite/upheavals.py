# SPDX-License-Identifier: MIT
"""Steps of random tests that change CPUs, memory blocks, DIMMs or the kernel. Where a guest lacks
what one needs (a whole block that is unaccepted, a slot) it does nothing."""

import contextlib
import time

from harness.base.status import UsageError
from harness.base.units import MIB
from harness.guest.hotplug import Hotplug
from harness.guest.hotplug_events import UnplugRefused
from harness.suite.corefile import KCORE, read_core
from harness.suite.subject import Subject
from harness.workloads import kexec

_CPU = "/sys/devices/system/cpu/cpu1/online"
_MEMORY = "/sys/devices/system/memory"
_DIMM = 128 * MIB
_DEADLINE_S = 120.0
_BLOCK_S = 40
"""For a memory block's way off or on; a second is much on a quiet machine."""


def cycle_cpu(subject: Subject) -> bool:
    """Take CPU 1 offline, and online again; False where no CPU goes down."""
    script = f"echo 0 | cat 2>&1 > {_CPU} && echo 1 > {_CPU} && cat {_CPU}"
    said = subject.sh(script, deadline_s=_DEADLINE_S, check=False).strip()
    if "not supported" in said:  # of a TDX guest no CPU goes down (cpu_hotplug_disable_offlining())
        return False
    return subject.verify("cpu-hotplug", said == "1", f"CPU 1 did not come back: {said!r:.80}")


def cycle_block(subject: Subject, place: int) -> None:
    """Take a memory block that is unaccepted from end to end offline, and online again."""
    size = int(subject.read(f"{_MEMORY}/block_size_bytes"), 16)
    numbers = [
        number
        for run in subject.pending()
        for number in range(-(-run.start // size), run.stop // size)
    ]
    if not numbers:
        return
    number = numbers[place % len(numbers)]
    for word in ("offline", "online"):
        state = f"{_MEMORY}/memory{number}/state"
        # The kernel tries for ever (offline_pages(), mm/memory_hotplug.c) unless a signal comes.
        script = f"timeout {_BLOCK_S} sh -c 'echo {word} > {state}' 2>/dev/null && echo done"
        done = subject.sh(script, deadline_s=_DEADLINE_S, check=False).strip() == "done"
        detail = f"memory{number}, never used, does not go {word} within {_BLOCK_S} s"
        if not subject.verify("offline", done, detail):
            return


def read_pending(subject: Subject, place: int) -> None:
    """Read unaccepted memory through /proc/kcore, which has to read as nothing."""
    runs = subject.pending()
    run = runs[place % len(runs)]
    read_core(subject, KCORE, run.start + len(run) // 2, pages=4)


def plug(subject: Subject) -> None:
    """Plug a DIMM of one memory block, if there is a slot and room for it."""
    with contextlib.suppress(UsageError):
        Hotplug(subject.run.guest).plug_dimm(_DIMM)


def unplug(subject: Subject) -> None:
    """Unplug the DIMM that was plugged last. The guest may refuse: it may be in use."""
    hotplug = Hotplug(subject.run.guest)
    dimms = [device for device in hotplug.devices() if device.kind == "dimm"]
    if not dimms:
        return
    with contextlib.suppress(UnplugRefused):
        hotplug.unplug_dimm(dimms[-1])


def next_kernel(subject: Subject) -> None:
    """Start the same kernel once more by kexec, and go on in it. Held memory is gone with it."""
    guest = subject.run.guest
    kexec.load(guest, *kexec.boot_files(guest), kexec.CALLS["load"])
    since_ns = time.monotonic_ns()
    guest.start(["kexec", "-e"])
    subject.next_kernel(since_ns)
