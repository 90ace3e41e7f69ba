# SPDX-License-Identifier: MIT
"""The wheel, in an empty virtual environment away from the checkout; and other people's pytest."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from harness.base.resources import checkout
from harness.base.store import default_root

FOREIGN = "iniconfig"
"""A small package whose sdist has its tests."""
GUEST_TEST = """
def test_a_guest_accepts_lazily(guest):
    before = guest.guest.run("grep nr_unaccepted /proc/vmstat").text.split()[1]
    assert int(before) > 0
"""
_TIMES = re.compile(r" in \d+\.\d+s|=+")

pytestmark = [pytest.mark.guest, pytest.mark.xdist_group("wheel")]


class Installed:
    """A virtual environment that holds the wheel and what it depends on, and nothing else."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.elsewhere = directory / "elsewhere"
        self.elsewhere.mkdir()
        self._bin = directory / "venv" / "bin"

    def run(self, *argv: str, code: int | None = 0, cwd: Path | None = None) -> str:
        """stdout and stderr of a command of the environment."""
        result = subprocess.run(
            [str(self._bin / argv[0]), *argv[1:]],
            cwd=cwd or self.elsewhere,
            env={
                **{k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "PYTEST"))},
                "CVM_HARNESS_CACHE": str(default_root()),
                "PATH": f"{self._bin}:{os.environ['PATH']}",
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=900,
            check=False,
        )
        assert code is None or result.returncode == code, result.stdout[-5000:]
        return result.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """The wheel built from this tree and installed with pip."""
    directory = tmp_path_factory.mktemp("wheel")
    found = Installed(directory)
    subprocess.run([sys.executable, "-m", "venv", str(directory / "venv")], check=True)
    build = [sys.executable, "-m", "build", "--wheel", "--outdir", str(directory), str(checkout())]
    built = subprocess.run(build, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    (wheel,) = directory.glob("*.whl")
    found.run("pip", "install", "--quiet", "--disable-pip-version-check", str(wheel))
    return found


def test_every_verb_that_needs_no_guest_works_from_anywhere(installed: Installed) -> None:
    assert "QEMU" in installed.run("cvm-harness", "doctor", code=None)
    assert "parallel-lock" in installed.run("cvm-harness", "catalogue", "list")
    told = installed.run("cvm-harness", "catalogue", "run", "kcore", code=2)
    assert "in the source tree" in told


def test_kernels_are_built_and_guests_run_from_the_wheel(installed: Installed) -> None:
    """The kernel is the one that the checkout has built: the inputs are the same."""
    installed.run("cvm-harness", "build", "--target=emulated", "--kernel=debian:6.12")
    told = installed.run("cvm-harness", "run", "touch", "--target=emulated", "--memory=1G")
    assert "PASS" in told
    (installed.elsewhere / "test_mine.py").write_text(GUEST_TEST)
    told = installed.run("pytest", "--target=emulated", "--memory=1G", "test_mine.py")
    assert "1 passed" in told
    assert "cvm-harness: target emulated (asked for)" in told


def test_a_foreign_project_is_tested_as_if_the_plugin_were_not_there(installed: Installed) -> None:
    get = ["pip", "download", "--quiet", "--no-deps", f"--no-binary={FOREIGN}", FOREIGN]
    installed.run(*get)
    (sdist,) = installed.elsewhere.glob(f"{FOREIGN}-*.tar.gz")
    subprocess.run(["tar", "xf", sdist.name], cwd=installed.elsewhere, check=True)
    tree = installed.elsewhere / sdist.name.removesuffix(".tar.gz")
    run = ["pytest", "-v", "-p", "no:cacheprovider", "testing"]
    (tree / "testing" / "test_options.py").write_text(
        "def test_own_option(pytestconfig):\n    assert pytestconfig.getoption('--target') == 'x'\n"
    )
    (tree / "testing" / "conftest.py").write_text(
        "def pytest_addoption(parser):\n    parser.addoption('--target', default='x')\n"
    )
    with_plugin = installed.run(*run, cwd=tree, code=None)
    installed.run("pip", "uninstall", "--quiet", "--yes", "cvm-harness")
    without = installed.run(*run, cwd=tree, code=None)
    assert "test_own_option PASSED" in without
    assert _told(with_plugin) == _told(without)


def _told(output: str) -> str:
    """Without how long it took, and without pytest's own list of plugins."""
    return "\n".join(_TIMES.sub("", x) for x in output.splitlines() if not x.startswith("plugins:"))
