# SPDX-License-Identifier: MIT
"""The journal: torn lines, damage, full disks, two writers."""

import errno
import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.base.status import HostError, Status, UsageError
from harness.record.attempts import Built, Sample
from harness.record.journal import Journal, read_events
from harness.record.rundir import plain


def test_what_was_appended_is_there_when_it_is_opened_again(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    with Journal(path) as journal:
        journal.append("start", cell="a", status=Status.PASS)
        journal.append("end", cell="a")
    with Journal(path) as journal:
        assert [event["event"] for event in journal.events] == ["start", "end"]
        assert journal.events[0]["status"] == "PASS"
        assert [e["cell"] for e in journal.of("end", cell="a")] == ["a"]
        assert not list(journal.of("end", cell="b"))
    assert not list(tmp_path.glob("*.ballast"))


def test_what_was_appended_with_an_event_is_read_as_its_type(tmp_path: Path) -> None:
    built = Built(Status.ERROR, "does not build", ("line 1",))
    sample = Sample(Status.PASS, "", {"cost.workload": 1.5}, Path("runs/x"), "run", 2.0)
    path = tmp_path / "journal.jsonl"
    with Journal(path) as journal:
        journal.append("built", point="a", place="kernels/a/1", **plain(built))
        journal.append("sample", point="a", **plain(sample))
        journal.append("sample", point="b", status="GOOD", cause="")
    with Journal(path) as journal:
        assert list(journal.read("built", Built, point="a")) == [built]
        assert list(journal.read("sample", Sample, point="a")) == [sample]
        with pytest.raises(UsageError, match=r"event sample of 20.*: metrics is missing"):
            list(journal.read("sample", Sample, point="b"))


@given(cut=st.integers(min_value=0))
def test_a_torn_last_line_is_dropped_and_what_follows_is_whole(
    tmp_path_factory: pytest.TempPathFactory, cut: int
) -> None:
    path = tmp_path_factory.mktemp("journal") / "journal.jsonl"
    with Journal(path) as journal:
        for number in range(3):
            journal.append("step", number=number)
    data = path.read_bytes()
    cut %= len(data) + 1
    path.write_bytes(data[:cut])
    with Journal(path) as journal:
        kept = data[:cut].count(b"\n")
        assert [event["number"] for event in journal.events] == list(range(kept))
        journal.append("after")
    assert [e["event"] for e in read_events(path)] == ["step"] * kept + ["after"]


@pytest.mark.parametrize("line", ["garbage", "[1]", '{"event": 3}', "{}"])
def test_damage_in_the_middle_is_not_taken_for_a_short_journal(tmp_path: Path, line: str) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_text(f'{line}\n{{"event": "end"}}\n')
    with pytest.raises(UsageError, match="line 1 is not an event"):
        Journal(path)


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    with Journal(path), pytest.raises(HostError, match="in use by another process"):
        Journal(path)
    with Journal(path):
        pass


def test_on_a_full_disk_the_reserve_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "journal.jsonl"
    ballast = path.with_name("journal.jsonl.ballast")
    write = os.write

    def full(fd: int, data: bytes) -> int:
        if ballast.exists():
            write(fd, data[:5])  # what fits
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(fd, data)

    with Journal(path) as journal:
        assert ballast.stat().st_size > 0
        monkeypatch.setattr(os, "write", full)
        journal.append("end", cell="a")
        assert not ballast.exists()
    assert [json.loads(line)["cell"] for line in path.read_text().splitlines()] == ["a"]
