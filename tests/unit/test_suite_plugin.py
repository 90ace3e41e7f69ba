# SPDX-License-Identifier: MIT
"""The plugin says what it runs on, tells verdicts apart by exit code, ends early on MISS."""

import json
import shlex
import xml.etree.ElementTree as ET

import pytest

from harness.base.resources import checkout
from harness.suite.plugin.options import rerun_command

PASSES = "def test_nothing():\n    pass\n"
RAISES = """
from harness.base.status import {error}

def test_raises():
    raise {error}("the cause", hint="the next step")
"""


@pytest.mark.parametrize(
    ("error", "code", "label", "options"),
    [
        ("GuestFailure", 1, "FAIL", []),
        ("PreconditionError", 3, "ERROR", []),
        ("HostError", 69, "MISS", []),
        ("HostError", 69, "MISS", ["--numprocesses=1"]),
    ],
)
def test_verdicts_reach_the_exit_code_and_the_report(
    pytester: pytest.Pytester, error: str, code: int, label: str, options: list[str]
) -> None:
    pytester.makepyfile(RAISES.format(error=error))
    result = pytester.runpytest_subprocess(*options)
    assert result.ret == code
    result.stdout.fnmatch_lines([f"*{label}: the cause (the next step)*"])


def test_fail_outranks_the_rest(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        "from harness.base.status import GuestFailure, HostError\n"
        "def test_miss():\n    raise HostError('no host')\n"
        "def test_fail():\n    raise GuestFailure('bad kernel')\n"
    )
    assert pytester.runpytest_subprocess().ret == 1


def test_header_names_target_kernel_and_qemu_with_reasons(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(PASSES)
    result = pytester.runpytest_subprocess("--cost=tdx", "--kernel=debian:7.3")
    assert result.ret == 0
    result.stdout.fnmatch_lines(
        [
            "cvm-harness: target emulated (auto*",
            "cvm-harness: *QEMU*",
            "cvm-harness: kernel debian:7.3, cost tdx, tier quick",
        ]
    )


@pytest.mark.parametrize("target", ["snp", "tdx"])
def test_a_target_that_cannot_run_ends_at_once_with_miss(
    pytester: pytest.Pytester, target: str
) -> None:
    pytester.makepyfile(PASSES)
    result = pytester.runpytest_subprocess(f"--target={target}", "--accel=kvm")
    assert result.ret == 69
    assert "MISS" in result.stdout.str() + result.stderr.str()
    assert "passed" not in result.stdout.str()


def test_a_bad_option_is_a_usage_error(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(PASSES)
    result = pytester.runpytest_subprocess("--target=sgx")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "unknown target 'sgx'" in result.stderr.str()


STAND_INS = """
import contextlib, sys, types
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
sys.path.append({root!r})
from tests.support.sample_runs import make_run

@pytest.fixture(scope="session")
def cvm_kernel():
    return None

@pytest.fixture(scope="session")
def cvm_session(tmp_path_factory):
    @contextlib.contextmanager
    def boot(prepared, **_):
        yield types.SimpleNamespace(directory=make_run(tmp_path_factory.mktemp("runs")))

    return types.SimpleNamespace(prepare=lambda spec, kernel: None, boot=boot)
"""


def test_junit_xml_tells_kernel_target_and_metrics_of_each_guest(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(STAND_INS.format(root=str(checkout())))
    pytester.makepyfile("def test_boots(boot):\n    with boot() as run:\n        pass\n")
    assert pytester.runpytest_subprocess("--junit-xml=out.xml").ret == 0
    (case,) = ET.parse(pytester.path / "out.xml").getroot().iter("testcase")
    properties = {p.get("name"): p.get("value") for p in case.iter("property")}
    assert properties["kernel"] == "6.12.117-cvm-0a1b2c3d"
    assert properties["target"] == "emulated"
    assert float(properties["boot.first_command_ns"] or 0) == 2_300_000_000


def test_the_verdicts_name_status_and_cause_wherever_a_test_failed(
    pytester: pytest.Pytester,
) -> None:
    pytester.makepyfile(
        """
        import pytest
        from harness.base.status import GuestFailure

        @pytest.fixture
        def early():
            raise GuestFailure("kernel panic at boot")

        @pytest.fixture
        def late():
            yield
            raise GuestFailure("counters disagree")

        def test_early(early): pass
        def test_late(late): pass
        def test_plain(): assert 1 == 2, "no arithmetic"
        """
    )
    pytester.runpytest("--verdicts=out.jsonl", "-p", "no:cacheprovider")
    lines = [json.loads(x) for x in (pytester.path / "out.jsonl").read_text().splitlines()]
    failed = {x["test"].split("::")[1]: (x["status"], x["cause"]) for x in lines if x["cause"]}
    assert failed["test_early"] == ("FAIL", "kernel panic at boot")
    assert failed["test_late"] == ("FAIL", "counters disagree")
    assert failed["test_plain"] == ("FAIL", "AssertionError: no arithmetic")


SPOILT = """
import itertools
from harness.base.status import {error}

TRIES = itertools.count()

def test_boots(cvm_session):
    if next(TRIES) < {spoilt}:
        raise {error}("the cause")
"""


@pytest.mark.parametrize(
    ("error", "spoilt", "tries", "code"),
    [("EmulatorFlaw", 2, 3, 0), ("EmulatorFlaw", 3, 3, 69), ("GuestFailure", 1, 1, 1)],
)
def test_what_qemu_spoils_is_run_again_and_what_the_kernel_does_is_not(
    pytester: pytest.Pytester, error: str, spoilt: int, tries: int, code: int
) -> None:
    pytester.makeconftest(STAND_INS.format(root=str(checkout())))
    pytester.makepyfile(SPOILT.format(error=error, spoilt=spoilt))
    result = pytester.runpytest_subprocess("--verdicts=v.jsonl")
    assert result.ret == code
    assert result.parseoutcomes().get("rerun", 0) == tries - 1
    result.assert_outcomes(passed=int(code == 0), failed=int(code != 0))
    (line,) = (pytester.path / "v.jsonl").read_text().splitlines()  # of the last try only
    assert json.loads(line)["status"] == {0: "PASS", 1: "FAIL", 69: "MISS"}[code]


def test_what_is_on_top_of_the_kernel_reaches_the_build_and_the_line_to_rerun(
    pytester: pytest.Pytester,
) -> None:
    pytester.makepyfile(
        """
        from pathlib import Path

        from harness.suite.plugin.options import rerun_command
        from harness.run.session import Session

        def test_it(pytestconfig, monkeypatch, request):
            line = rerun_command(pytestconfig, "this")
            assert "--patch=a.patch --patch=b.mbox --fragment=debug --set=KFENCE=y" in line
            asked = {}
            monkeypatch.setattr(Session, "kernel_for", lambda self, *_, **kw: asked.update(kw))
            request.getfixturevalue("cvm_kernel")
            assert asked == {
                "patches": [Path("a.patch"), Path("b.mbox")],
                "settings": ["KFENCE=y"],
                "extra": ["debug"],
            }
        """
    )
    options = ["--patch=a.patch", "--patch=b.mbox", "--fragment=debug", "--set=KFENCE=y"]
    assert pytester.runpytest_subprocess(*options).ret == 0


def test_the_line_to_rerun_a_test_has_every_option_of_the_guest(pytester: pytest.Pytester) -> None:
    (pytester.path / "x.img").touch()
    given = [
        *("--target=snp", "--kernel=K", "--memory=8192M", "--accel=kvm"),
        *(f"--firmware={pytester.path}/x.img", f"--disk={pytester.path}/x.img"),
        *("--snp-policy=0x30001", "--guest-debug", "--kernel-hashes=off"),
        *("--cpu-model=EPYC-Milan", "--huge-pages=1G"),
    ]
    line = rerun_command(pytester.parseconfig(*given), "tests/test_x.py::test_y")
    assert set(shlex.split(line)) == {"pytest", *given, "--tier=quick", "tests/test_x.py::test_y"}


def test_the_line_to_rerun_a_test_leaves_names_to_their_owners(pytester: pytest.Pytester) -> None:
    pytester.makeconftest("def pytest_addoption(parser): parser.addoption('--memory')")
    config = pytester.parseconfig("--cvm-memory=1024M", "--target=emulated")
    words = shlex.split(rerun_command(config, "test_x.py"))
    assert "--cvm-memory=1024M" in words
    assert "--target=emulated" in words
