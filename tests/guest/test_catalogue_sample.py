# SPDX-License-Identifier: MIT
"""A sample of the catalogue of bugs (docs/catalogue.md): each is caught, and for its own reason.

All of it is `cvm-harness catalogue run`. These three are cheap, and differ in how they show: a
counter, what an allocator gives, and an access that hardware would punish.
"""

import json
import subprocess
from pathlib import Path

import pytest

from harness.jobs.lab import interpreted
from harness.suite.plugin.options import option

SAMPLE = {"unaccepted-leak": "table", "bulk": "bulk", "kcore": "illegal-access"}
"""Bug, and a signal that gives it away."""
DEADLINE_S = 1500
"""The kernel with the bugs in it has to be built where the cache has none."""

pytestmark = pytest.mark.guest


def test_a_sample_of_the_bugs_is_caught_and_nothing_else_fails(
    tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    kernel = option(pytestconfig, "--kernel")
    if not kernel.startswith("debian:"):
        pytest.skip(f"the carried patch known-bugs is not for {kernel}")
    command = ["cvm-harness", "catalogue", "run", *SAMPLE, "--json"]
    command += [f"--kernel={kernel}", f"--runs={tmp_path / 'runs'}"]
    done = subprocess.run(
        interpreted(command), capture_output=True, text=True, timeout=DEADLINE_S, check=False
    )
    assert done.returncode == 0, f"exit {done.returncode}: {(done.stdout + done.stderr)[-2000:]}"
    found = {record["id"]: record for record in json.loads(done.stdout)}
    assert found.keys() == SAMPLE.keys()
    for bug, signal in SAMPLE.items():
        tests = found[bug]["tests"]
        assert tests, f"no test looked for {bug}"
        caught = [test for test in tests if test["caught"]]
        assert caught, f"{bug}: {tests}"
        assert any(signal in test["signal"] for test in caught), f"{bug}: {caught}"
