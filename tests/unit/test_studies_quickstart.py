# SPDX-License-Identifier: MIT
"""The quickstart's table names the platform that it ran on, and asks no guest for what it lacks."""

import dataclasses
import io
from pathlib import Path
from typing import Any

import msgspec
import pytest
from rich.console import Console

from harness.analysis.analyse import analyse
from harness.base.spec import AcceptMode, GuestSpec
from harness.record.boot import BootRecord, InitMessage
from harness.record.counters import Counters
from harness.studies.quickstart import Arm, table, write_page
from harness.targets.choose import guest_spec
from harness.workloads.base import WorkloadResult
from tests.support.platform_streams import info
from tests.support.sample_runs import make_measured_run

STAGES = {"spawn": 0, "init": 3 * 10**9, "first_command": 4 * 10**9}


def arm(root: Path, spec: GuestSpec, *, emulation: bool, **record: Any) -> Arm:
    run = make_measured_run(root, calls=200, **record)
    found = analyse(run.path)

    def reading(counters: Counters) -> Counters:
        return counters if emulation else dataclasses.replace(counters, emulation={})

    outcome = dataclasses.replace(
        found, cause="", before=reading(found.before), after=reading(found.after)
    )
    boot = BootRecord(stages=STAGES, init=InitMessage(900 * 1024, 1))
    return Arm(spec, outcome, boot, WorkloadResult("touch", 1 << 30, 10**9, ()), run.path)


def printed(arms: list[Arm]) -> str:
    out = io.StringIO()
    Console(file=out, width=160).print(table(arms))
    return out.getvalue()


def both(root: Path, spec: GuestSpec, **facts: Any) -> list[Arm]:
    modes = (AcceptMode.LAZY, AcceptMode.EAGER)
    made = (dataclasses.replace(spec, accept=mode) for mode in modes)
    return [arm(root, one, **facts) for one in made]


def test_the_emulated_platform_is_named_with_its_own_count(tmp_path: Path) -> None:
    text = printed(both(tmp_path, guest_spec(target="emulated", cost="tdx"), emulation=True))
    assert "emulated platform (kernel patch)" in text
    assert "cost model 'tdx'" in text
    assert "400 MiB" in text


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("tdx", "TDX under TCG (emulated module)"),
        ("snp", "SEV-SNP under TCG (emulated RMP and host)"),
    ],
)
def test_a_platform_under_tcg_is_named_and_counted_by_qemu(
    tmp_path: Path, target: str, words: str
) -> None:
    after = msgspec.to_builtins(info())
    platform = {"statistics": {"before": after, "after": after}, "at_rest": True}
    spec = guest_spec(target=target, accel="tcg")
    text = printed(both(tmp_path, spec, emulation=False, platform=platform))
    assert text.count(words) == 1
    assert "accepted since power-on, by the platform" in text
    assert "2 MiB" in text


def test_hardware_is_named_and_counts_nothing(tmp_path: Path) -> None:
    """A counter that only an emulated platform has was asked of hardware guests."""
    text = printed(both(tmp_path, guest_spec(target="snp", accel="kvm"), emulation=False))
    assert "SEV-SNP hardware; measured on snp hardware" in text
    assert "emulated" not in text


def test_what_saved_firmware_spared_is_in_no_time_to_init(tmp_path: Path) -> None:
    arms = [
        dataclasses.replace(one, boot=BootRecord(stages={**STAGES, "restored": 10**9}))
        for one in both(tmp_path, guest_spec(target="tdx", accel="tcg"), emulation=False)
    ]
    assert "time to init (host clock, from the kernel's loading on)" in printed(arms)
    assert arms[0].boot.since_start_ns("init") == 2 * 10**9
    assert "time to init (host clock) " in printed(
        both(tmp_path, guest_spec(target="tdx", accel="tcg"), emulation=False)
    )


def test_both_runs_are_on_one_page(tmp_path: Path) -> None:
    arms = both(tmp_path, guest_spec(target="emulated"), emulation=True)
    page = write_page(arms, tmp_path)
    assert page.parent == tmp_path
    text = page.read_text()
    assert all(one.directory.name in text for one in arms)
