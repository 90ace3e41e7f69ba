# SPDX-License-Identifier: MIT
"""A run directory is valid at every moment and never overwritten."""

import json
from pathlib import Path

import pytest

from harness.base.status import GuestFailure, HostError, PreconditionError, Status, UsageError
from harness.guest.machine import Machine
from harness.record.rundir import UNFINISHED, RunDir
from harness.run.prepared import host_facts, repro_script


def test_a_run_that_was_killed_reads_as_unfinished(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path)
    again = RunDir.load(run.path)
    assert again.record["status"] == Status.MISS.value
    assert again.record["cause"] == UNFINISHED


def test_every_run_has_a_directory_of_its_own(tmp_path: Path) -> None:
    paths = {RunDir.create(tmp_path).path for _ in range(20)}
    assert len(paths) == 20


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (GuestFailure("panic", hint="look"), Status.FAIL),
        (PreconditionError("nothing to check"), Status.ERROR),
        (HostError("no qemu"), Status.MISS),
        (KeyboardInterrupt(), Status.MISS),
        (ZeroDivisionError("bug of the harness"), Status.MISS),
    ],
)
def test_an_exception_leaves_its_verdict(
    tmp_path: Path, error: BaseException, status: Status
) -> None:
    run = RunDir.create(tmp_path)
    run.fail(error)
    record = json.loads((run.path / "run.json").read_text())
    assert record["status"] == status.value
    assert record["cause"]
    assert record["ended_utc"]


@pytest.mark.parametrize("content", [None, "", "[]", '{"schema": 99}', '{"schema"'])
def test_what_is_no_run_is_refused(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "run.json").write_text(content)
    with pytest.raises(UsageError, match=r"run\.json|run directory"):
        RunDir.load(tmp_path)


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(HostError, match="cannot create the run directory"):
        RunDir.create(tmp_path / "file")


def test_repro_script_joins_the_initrd_and_names_the_rerun() -> None:
    machine = Machine(Path("/usr/bin/qemu"), (("-append", "a 'b' c"),))
    script = repro_script(machine, [Path("/c/base.zst"), Path("keys/k cpio")], "cvm-harness run x")
    assert "cat /c/base.zst 'keys/k cpio' > initrd.img" in script
    assert "#   cvm-harness run x" in script
    assert "-append 'a '\"'\"'b'\"'\"' c'" in script


def test_host_facts_are_of_this_host() -> None:
    facts = host_facts()
    assert facts["cpu"] != "unknown"
    assert isinstance(facts["memory_bytes"], int)
