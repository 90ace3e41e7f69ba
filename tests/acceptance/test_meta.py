# SPDX-License-Identifier: MIT
"""The suite on guests that have nothing to accept: not one test may pass there."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from harness.suite.plugin.options import kernel_words, option

HERE = Path(__file__).parent
OFF = "unaccepted_emulation=route=nowhere"
NOTHING_LEFT = "unaccepted_emulation=route=direct,from=512G,to=513G"
EAGER = "accept_memory=eager"

pytestmark = pytest.mark.guest


@pytest.mark.tier("full")
@pytest.mark.parametrize(
    "append",
    [
        pytest.param(OFF, id="without-the-feature"),
        pytest.param(NOTHING_LEFT, id="all-accepted-by-firmware"),
        pytest.param(EAGER, id="accepted-eagerly"),
    ],
)
def test_no_test_passes_where_there_is_nothing_to_accept(
    append: str, tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    verdicts = tmp_path / "verdicts.jsonl"
    command = [sys.executable, "-m", "pytest", str(HERE), "--tier=quick", "-q"]
    command += [f"--append={append}", f"--verdicts={verdicts}", f"--runs={tmp_path / 'runs'}"]
    command += [f"--kernel={option(pytestconfig, '--kernel')}", *kernel_words(pytestconfig)]
    command += ["-p", "no:cacheprovider"]
    subprocess.run(command, cwd=HERE.parents[1], capture_output=True, timeout=1800, check=False)
    found = [json.loads(line) for line in verdicts.read_text().splitlines()]
    by_status = Counter(verdict["status"] for verdict in found)
    passed = [
        verdict["test"]
        for verdict in found
        # Eager boots are what those two are about: there they may pass.
        if verdict["status"] == "PASS" and not (append == EAGER and "eager" in verdict["test"])
    ]
    assert len(found) > 40, f"the suite ran {len(found)} tests: {dict(by_status)}"
    assert not passed, f"{dict(by_status)}"
    assert by_status["ERROR"] > 40, f"{dict(by_status)}"
