# SPDX-License-Identifier: MIT
"""A boot that QEMU itself spoils is tried again: it says nothing about the kernel under test. Each
stays on record, its cause in run.json and its logs in `failed-boot-N`."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import tenacity

from harness.base.status import EmulatorFlaw
from harness.record.rundir import RunDir
from harness.workloads.base import Notify

T = TypeVar("T")
ATTEMPTS = 3
LOGS = ("console.log", "qemu.log", "qmp.jsonl")


def boot_again(boot: Callable[[], T], directory: RunDir, notify: Notify) -> T:
    """What `boot` returns. Raises what it raises, EmulatorFlaw only after ATTEMPTS of those."""

    def note(state: tenacity.RetryCallState) -> None:
        flaw = state.outcome.exception() if state.outcome else None
        name = f"failed-boot-{state.attempt_number}"
        set_aside(directory.path, name)
        before = directory.record.get("emulator_flaws", [])
        directory.update(emulator_flaws=[*before, {"cause": str(flaw), "logs": name}])
        notify(f"booting again: {flaw}")

    retry = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(EmulatorFlaw),
        stop=tenacity.stop_after_attempt(ATTEMPTS),
        before_sleep=note,
        reraise=True,
    )
    return retry(boot)


def set_aside(run_dir: Path, name: str) -> None:
    """Keep the logs of a failed attempt, in `name`, from being overwritten by the next."""
    aside = run_dir / name
    aside.mkdir(exist_ok=True)
    for log in LOGS:
        if (run_dir / log).exists():
            (run_dir / log).replace(aside / log)
