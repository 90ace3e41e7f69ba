# SPDX-License-Identifier: MIT
"""Turns: who wants the host alone gets it, waits for those before, and is not passed by."""

import select
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

CHILD = """
import pathlib, sys
from harness.suite.turns import turn
print("at the door", flush=True)
with turn(pathlib.Path(sys.argv[2]), alone=sys.argv[1] == "alone"):
    print("in", flush=True)
    sys.stdin.readline()
print("out", flush=True)
"""
Child = subprocess.Popen[bytes]


@pytest.fixture
def child(tmp_path: Path) -> Iterator[Callable[[str], Child]]:
    started: list[Child] = []

    def start(how: str) -> Child:
        process = subprocess.Popen(
            [sys.executable, "-c", CHILD, how, str(tmp_path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,  # what select() sees is all there is
        )
        started.append(process)
        assert says(process, 30.0) == "at the door"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def says(process: Child, seconds: float = 10.0) -> str:
    assert process.stdout
    ready, _, _ = select.select([process.stdout], [], [], seconds)
    return process.stdout.readline().decode().strip() if ready else ""


def leave(process: Child) -> None:
    assert process.stdin
    process.stdin.write(b"\n")
    assert says(process) == "out"


def test_those_who_share_are_in_together(child: Callable[[str], Child]) -> None:
    assert [says(child("shared")) for _ in range(2)] == ["in", "in"]


def test_who_wants_to_be_alone_waits_and_is_not_passed_by(child: Callable[[str], Child]) -> None:
    first = child("shared")
    assert says(first) == "in"
    alone = child("alone")
    assert says(alone, 0.5) == ""
    late = child("shared")
    assert says(late, 0.5) == ""  # although it could share with the first
    leave(first)
    assert says(alone) == "in"
    assert says(late, 0.5) == ""
    leave(alone)
    assert says(late) == "in"


def test_a_turn_of_a_process_that_is_killed_is_free(child: Callable[[str], Child]) -> None:
    first = child("alone")
    assert says(first) == "in"
    first.kill()
    assert says(child("alone")) == "in"
