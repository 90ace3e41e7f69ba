# SPDX-License-Identifier: MIT
"""What a failed run leaves: the verdict in its directory, and on the error how to run it again."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

import harness.run.session
from harness.base.status import GuestFailure
from harness.base.store import Store
from harness.collect.plan import Collect
from harness.host.state import HostWatch
from harness.record.view import RunView, run_directories
from harness.run.session import Session


def test_a_failure_says_how_to_run_it_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextlib.contextmanager
    def dies(*_: object) -> Iterator[Any]:
        raise GuestFailure("the guest panicked", details=("last console lines:",))
        yield

    monkeypatch.setattr(harness.run.session, "_cold_guest", dies)
    session = Session(store=Store(tmp_path / "cache"), runs=tmp_path / "runs")
    boot = session._boot(Mock(), "cvm-harness run touch", Collect(), HostWatch())
    with pytest.raises(GuestFailure) as failed, boot:
        pass
    assert failed.value.details == ("last console lines:", "rerun: cvm-harness run touch")
    (directory,) = run_directories(tmp_path / "runs")
    record = RunView.load(directory).record
    assert (record["status"], record["cause"]) == ("FAIL", "the guest panicked")
