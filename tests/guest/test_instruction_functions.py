# SPDX-License-Identifier: MIT
"""--by-function: QEMU's plugin counts what the clock counts, and the dear functions have names."""

from pathlib import Path

import pytest

from harness.analysis.functions import read_functions
from harness.base.spec import SnapshotMode
from harness.base.status import Status
from harness.base.units import MIB, PAGE_SIZE
from harness.collect.plan import Collect
from harness.kernel.kernel import Kernel
from harness.run.session import Session
from harness.targets.choose import guest_spec
from harness.workloads.touch import Touch

pytestmark = pytest.mark.guest
BYTES = 64 * MIB


def test_the_split_adds_up_to_the_clock(
    cvm_session: Session, cvm_kernel: Kernel, tmp_path: Path
) -> None:
    session = Session(store=cvm_session.store, runs=tmp_path, snapshot=SnapshotMode.AUTO)
    spec = guest_spec(memory="1G", vcpus=1, clock="icount", by_function=True)
    prepared = session.prepare(spec, cvm_kernel)
    with session.boot(prepared, collect=Collect(hz=0)) as run:
        result = run.load(Touch(bytes=BYTES))
        outcome = run.conclude()
    assert outcome.status is Status.PASS, outcome.cause
    functions = read_functions(run.directory.path)
    total = sum(function.instructions for function in functions)
    # One instruction a nanosecond, but for what blocks that fault count twice.
    assert total == pytest.approx(result.elapsed_ns, rel=0.02)
    dearest = functions[0]
    assert dearest.name.startswith("clear_page"), functions[:5]
    # One is an instruction a repetition: rep stosb clears a page in 4096 of them, rep stosq in 512.
    assert dearest.instructions >= BYTES // PAGE_SIZE * 512
