# SPDX-License-Identifier: MIT
"""Claims: keys and memory are not given out twice, a timing run is alone, the dead hold nothing."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.base.status import HostError
from harness.host.reserve import Claim, Supply, reserve

HOLDER = """
import sys
from harness.host.reserve import Claim, Supply, reserve
with reserve(Claim(memory=int(sys.argv[1]), keys=int(sys.argv[2]), exclusive=bool(sys.argv[3])),
             Supply()):
    print("held", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture(autouse=True)
def leases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CVM_HARNESS_LEASES", str(tmp_path / "leases"))
    return tmp_path / "leases"


@pytest.fixture
def other() -> Iterator[subprocess.Popen[str]]:
    """Another process that holds 6 bytes and 2 keys, and gives them back when told to."""
    yield from _holder("6", "2", "")


@pytest.fixture
def loner() -> Iterator[subprocess.Popen[str]]:
    """Another process that has the host for itself."""
    yield from _holder("0", "0", "yes")


def _holder(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def taken(claim: Claim, supply: Supply) -> bool:
    try:
        with reserve(claim, supply, deadline_s=0):
            return True
    except HostError:
        return False


def test_what_others_hold_is_not_given_out_again(other: subprocess.Popen[str]) -> None:
    assert taken(Claim(memory=4, keys=1), Supply(memory=10, keys=3))
    assert not taken(Claim(memory=5, keys=1), Supply(memory=10, keys=3))
    assert not taken(Claim(memory=4, keys=2), Supply(memory=10, keys=3))
    other.communicate("\n")
    assert taken(Claim(memory=10, keys=3), Supply(memory=10, keys=3))


def test_a_claim_of_the_dead_does_not_count(other: subprocess.Popen[str], leases: Path) -> None:
    other.kill()
    other.wait()
    assert list(leases.glob("claims/claim-*.json"))
    assert taken(Claim(memory=10), Supply(memory=10))
    assert not list(leases.glob("claims/claim-*.json"))


def test_an_unreadable_claim_is_removed(leases: Path) -> None:
    (leases / "claims").mkdir(parents=True)
    leases.chmod(0o700)
    (leases / "claims/claim-x.json").write_text(json.dumps({"claim": 7}))
    assert taken(Claim(memory=1), Supply(memory=1))
    assert not (leases / "claims/claim-x.json").exists()


def test_a_timing_run_is_alone(other: subprocess.Popen[str]) -> None:
    assert not taken(Claim(exclusive=True), Supply())
    other.communicate("\n")
    assert taken(Claim(exclusive=True), Supply())


def test_nobody_else_runs_beside_a_timing_run(loner: subprocess.Popen[str]) -> None:
    assert not taken(Claim(memory=1), Supply())
    with pytest.raises(HostError, match=f"process {loner.pid} measures times"):
        reserve(Claim(memory=1), Supply(), deadline_s=0).__enter__()


def test_a_timing_run_starts_its_own_guests() -> None:
    with reserve(Claim(exclusive=True), Supply()):
        assert taken(Claim(memory=1, keys=1), Supply(memory=1, keys=1))


def test_waiting_says_for_what_and_goes_on_when_it_is_free(other: subprocess.Popen[str]) -> None:
    said: list[str] = []

    def waiting(why: str) -> None:
        said.append(why)
        other.communicate("\n")

    with reserve(Claim(keys=2), Supply(keys=3), deadline_s=30, waiting=waiting):
        pass
    assert said == ["guests that run now hold all 3 keys"]


@pytest.mark.parametrize("claim", [Claim(memory=11), Claim(keys=4)])
def test_what_can_never_be_had_is_refused_at_once(claim: Claim) -> None:
    with pytest.raises(HostError):
        reserve(claim, Supply(memory=10, keys=3), deadline_s=1000).__enter__()


def test_a_claim_is_given_back(leases: Path) -> None:
    with reserve(Claim(memory=1), Supply()):
        (path,) = leases.glob("claims/claim-*.json")
        assert json.loads(path.read_text())["process"]["pid"] == os.getpid()
    assert not path.exists()
