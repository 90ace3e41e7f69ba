# SPDX-License-Identifier: MIT
"""A run done again: which command, and what counts as the same thing."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from harness.base.status import PreconditionError, Status, UsageError
from harness.jobs.reproduce import Reproduction, reproduce, rerun_command
from harness.record.rundir import RunDir
from harness.record.view import RunView

CAUSE = "table bounds: nr_unaccepted 4096 pages, pending 17"


def recorded(root: Path, status: Status, cause: str, rerun: str = "cvm-harness run touch") -> Path:
    run = RunDir.create(root)
    run.update(rerun=rerun, kernel={"release": "6.12.1-cvm-abc", "digest": "abc"})
    run.finish(status, cause)
    return run.path


def again(tmp_path: Path, *outcomes: tuple[Status, str], tries: int = 1) -> Reproduction:
    before = recorded(tmp_path / "old", Status.FAIL, CAUSE)
    left = list(outcomes)

    def run(argv: Sequence[str]) -> int:
        recorded(tmp_path / "new", *left.pop(0))
        return 0

    return reproduce(before, tmp_path / "new", run, tries)


def test_the_same_status_and_the_same_words_are_the_same_thing(tmp_path: Path) -> None:
    found = again(tmp_path, (Status.FAIL, CAUSE.replace("17", "512")))
    assert found.same
    assert found.same_kernel
    assert found.after.path.parent.name == "new"


@pytest.mark.parametrize(
    "outcome", [(Status.PASS, ""), (Status.ERROR, CAUSE), (Status.FAIL, "kernel panic")]
)
def test_anything_else_is_not(tmp_path: Path, outcome: tuple[Status, str]) -> None:
    assert not again(tmp_path, outcome).same


def test_what_happens_now_and_then_gets_its_tries(tmp_path: Path) -> None:
    found = again(tmp_path, (Status.PASS, ""), (Status.FAIL, CAUSE), (Status.PASS, ""), tries=3)
    assert found.same
    assert found.tries == 2


def test_a_command_that_makes_no_run_is_an_error(tmp_path: Path) -> None:
    before = recorded(tmp_path / "old", Status.FAIL, CAUSE)
    with pytest.raises(PreconditionError, match="exit code 2 and made no run directory"):
        reproduce(before, tmp_path / "new", lambda argv: 2)


@pytest.mark.parametrize(
    ("rerun", "command"),
    [
        (
            "cvm-harness run touch --runs old --memory 1G --json",
            "cvm-harness run touch --runs=R --memory 1G",
        ),
        (
            "cvm-harness run stress-ng --runs=old -- --vm 1",
            "cvm-harness run stress-ng --runs=R -- --vm 1",
        ),
        ("cvm-harness boot --memory 1G", "cvm-harness boot --runs=R --memory 1G"),
        ("pytest --memory=1G t.py::a", "pytest --runs=R --memory=1G t.py::a"),
    ],
)
def test_the_command_is_the_recorded_one_with_a_place_of_its_own(
    tmp_path: Path, rerun: str, command: str
) -> None:
    view = RunView.load(recorded(tmp_path, Status.FAIL, CAUSE, rerun))
    assert " ".join(rerun_command(view, Path("R"))) == command


@pytest.mark.parametrize("rerun", ["", "rm -rf /", "'", "/tmp/cvm-harness run touch"])
def test_a_record_cannot_make_us_run_something_else(tmp_path: Path, rerun: str) -> None:
    view = RunView.load(recorded(tmp_path, Status.FAIL, CAUSE, rerun))
    with pytest.raises(UsageError, match="does not say how"):
        rerun_command(view, Path("R"))


def test_what_is_not_a_run_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(json.dumps({"schema": 0}))
    with pytest.raises(UsageError):
        reproduce(tmp_path, tmp_path, lambda argv: 0)
