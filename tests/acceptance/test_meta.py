# SPDX-License-Identifier: MIT
"""The suite on guests that have nothing to accept: not one test may pass there."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from harness.base.spec import GuestSpec
from harness.suite.plugin.options import rerun_words

HERE = Path(__file__).parent
EMULATED, CONFIDENTIAL = {"emulated"}, {"tdx", "snp"}
EAGER = "--append=accept_memory=eager"

pytestmark = pytest.mark.guest


@pytest.mark.tier("full")
@pytest.mark.parametrize(
    ("targets", "words"),
    [
        pytest.param(
            EMULATED, "--append=unaccepted_emulation=route=nowhere", id="without-the-feature"
        ),
        pytest.param(
            EMULATED,
            "--append=unaccepted_emulation=route=direct,from=512G,to=513G",
            id="all-accepted-by-firmware",
        ),
        pytest.param(EMULATED | CONFIDENTIAL, EAGER, id="accepted-eagerly"),
        # Linux accepts lazily since 6.5: what 6.1 does not ask for, firmware accepts itself.
        pytest.param(CONFIDENTIAL, "--kernel=debian-binary:6.1", id="kernel-without-the-feature"),
    ],
)
def test_no_test_passes_where_there_is_nothing_to_accept(
    targets: set[str],
    words: str,
    tmp_path: Path,
    pytestconfig: pytest.Config,
    cvm_spec: GuestSpec,
) -> None:
    if cvm_spec.target.value not in targets:
        pytest.skip(f"not on {cvm_spec.target.value}")
    verdicts = tmp_path / "verdicts.jsonl"
    command = [sys.executable, "-m", "pytest", *rerun_words(pytestconfig), str(HERE), "-q"]
    command += ["--tier=quick", words]  # the last of an option counts
    command += [f"--verdicts={verdicts}", f"--runs={tmp_path / 'runs'}", "-p", "no:cacheprovider"]
    subprocess.run(command, cwd=HERE.parents[1], capture_output=True, timeout=3600, check=False)
    found = [json.loads(line) for line in verdicts.read_text().splitlines()]
    by_status = Counter(verdict["status"] for verdict in found)
    passed = [
        verdict["test"]
        for verdict in found
        # Eager boots are what those two are about: there they may pass.
        if verdict["status"] == "PASS" and not (words == EAGER and "eager" in verdict["test"])
    ]
    assert len(found) > 40, f"the suite ran {len(found)} tests: {dict(by_status)}"
    assert not passed, f"{dict(by_status)}"
    assert by_status["ERROR"] > 40, f"{dict(by_status)}"
