# SPDX-License-Identifier: MIT
"""Boots that QEMU spoils are tried again, with their logs kept; a guest's own failure is not."""

from pathlib import Path

import pytest

from harness.base.status import EmulatorFlaw, GuestFailure, HarnessError, HostError
from harness.record.rundir import RunDir
from harness.run.boots import ATTEMPTS, boot_again

FLAW = EmulatorFlaw("this QEMU ran code that the guest had patched meanwhile")


class Boots:
    """A boot that raises each of `errors` in turn, then works."""

    def __init__(self, directory: RunDir, *errors: HarnessError) -> None:
        self.errors = list(errors)
        self.done = 0
        self._directory = directory

    def __call__(self) -> str:
        self.done += 1
        (self._directory.path / "console.log").write_text(f"boot {self.done}")
        if self.errors:
            raise self.errors.pop(0)
        return "guest"


def test_a_spoilt_boot_is_tried_again_and_stays_on_record(tmp_path: Path) -> None:
    directory = RunDir.create(tmp_path)
    said: list[str] = []
    assert boot_again(Boots(directory, FLAW, FLAW), directory, said.append) == "guest"
    assert [one["logs"] for one in directory.record["emulator_flaws"]] == [
        "failed-boot-1",
        "failed-boot-2",
    ]
    assert (directory.path / "failed-boot-2" / "console.log").read_text() == "boot 2"
    assert (directory.path / "console.log").read_text() == "boot 3"
    assert len(said) == 2


def test_there_is_an_end_to_it(tmp_path: Path) -> None:
    directory = RunDir.create(tmp_path)
    boots = Boots(directory, *[FLAW] * ATTEMPTS)
    with pytest.raises(EmulatorFlaw):
        boot_again(boots, directory, lambda _: None)
    assert boots.done == ATTEMPTS


@pytest.mark.parametrize("error", [GuestFailure("the guest panicked"), HostError("QEMU died")])
def test_any_other_end_of_a_boot_is_the_verdict(tmp_path: Path, error: HarnessError) -> None:
    directory = RunDir.create(tmp_path)
    boots = Boots(directory, error)
    with pytest.raises(type(error)):
        boot_again(boots, directory, lambda _: None)
    assert boots.done == 1
    assert "emulator_flaws" not in directory.record
