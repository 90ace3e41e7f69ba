# SPDX-License-Identifier: MIT
"""scripts/setup installs what the code asks a user to install."""

import re
from pathlib import Path

from harness.image.hosttools import PACKAGES
from harness.kernel.make import HEADERS, TOOLS
from harness.qemu import build

SETUP = Path(__file__).parents[2] / "scripts" / "setup"


def installed() -> set[str]:
    block = re.search(r"^packages=\((.*?)^\)", SETUP.read_text(), re.MULTILINE | re.DOTALL)
    assert block
    lines = (line for line in block[1].splitlines() if not line.strip().startswith("#"))
    return {word for line in lines for word in line.split()}


def test_every_tool_that_the_code_looks_for_is_installed() -> None:
    wanted = {*TOOLS.values(), *HEADERS.values(), *PACKAGES.values()}
    wanted |= {*build.TOOLS.values(), *build.LIBRARIES.values()}
    assert wanted
    assert wanted - installed() == set()
