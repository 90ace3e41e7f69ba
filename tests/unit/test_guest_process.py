# SPDX-License-Identifier: MIT
"""What the host kept a process waiting is read from its threads' schedstat."""

import os
import subprocess
from pathlib import Path

import pytest

from harness.guest.process import longest_delay, run_delays


def test_the_most_delayed_thread_counts_from_the_last_reading() -> None:
    assert longest_delay({1: 10, 2: 100}, {1: 60, 2: 120, 3: 30}) == 50
    assert longest_delay({}, {}) == 0


@pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="no CONFIG_SCHED_INFO here")
def test_a_process_without_a_processor_of_its_own_is_delayed() -> None:
    script = "import time\nend = time.monotonic() + 0.3\nwhile time.monotonic() < end: pass"
    cpu = str(min(os.sched_getaffinity(0)))
    spin = ["taskset", "-c", cpu, "python3", "-c", script]
    with subprocess.Popen(spin) as first, subprocess.Popen(spin) as second:
        while first.poll() is None and second.poll() is None:
            delays = (run_delays(first.pid), run_delays(second.pid))
            longest = max(longest_delay({}, found) for found in delays)
            if longest > 10_000_000:
                break
    assert longest > 10_000_000
    assert run_delays(first.pid) == {}
