# SPDX-License-Identifier: MIT
"""The commands in the pages that boot guests, and the Python in the README, run as they stand."""

import subprocess
import sys
from pathlib import Path

import pytest

from harness.kernel.kernel import Kernel
from tests.support.pages import blocks

pytestmark = pytest.mark.guest


@pytest.mark.parametrize("block", blocks(mark="guest"), ids=lambda block: block.page)
def test_commands_that_boot_guests(block: object, cvm_kernel: Kernel, tmp_path: Path) -> None:
    """`cvm_kernel` is built first: the default kernel of these commands."""
    commands = list(block.commands())  # type: ignore[attr-defined]
    assert commands
    for words in commands:
        result = subprocess.run(
            [sys.executable, "-c", "from harness.cli.app import main; main()", *words],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert result.returncode == 0, result.stdout + result.stderr
        assert result.stdout.startswith("PASS")


def test_the_python_of_the_readme(cvm_kernel: Kernel, tmp_path: Path) -> None:
    (block,) = [b for b in blocks("python") if b.page == "README.md"]
    result = subprocess.run(
        [sys.executable, "-c", block.text],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == "Status.PASS"
