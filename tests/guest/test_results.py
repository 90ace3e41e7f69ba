# SPDX-License-Identifier: MIT
"""A real run's results, taken by the programs that they are meant for."""

import json
import os
import subprocess
import sys

import kcidb_io
import pytest

from harness.base.spec import GuestSpec
from harness.base.status import Status
from harness.base.store import Store
from harness.base.units import MIB
from harness.compare.index import index_of
from harness.kernel.kernel import Kernel
from harness.record.view import RunView
from harness.report.kcidb import kcidb
from harness.report.ktap import ktap
from harness.run.session import Session
from harness.workloads.touch import Touch

pytestmark = pytest.mark.guest

# Runs kunit's parser where it lies, with the one argument or, since 6.14, two.
_KUNIT = """
import inspect, sys
import kunit_parser, kunit_printer
lines = sys.stdin.read().splitlines()
wanted = inspect.signature(kunit_parser.parse_run_tests).parameters
test = kunit_parser.parse_run_tests(lines, *[kunit_printer.stdout][: len(wanted) - 1])
print("RESULT", test.status.name, test.counts.total(), test.counts.errors)
"""


@pytest.fixture(scope="module")
def view(cvm_session: Session, cvm_spec: GuestSpec, cvm_kernel: Kernel) -> RunView:
    """The run of one guest that touched memory."""
    prepared = cvm_session.prepare(cvm_spec, cvm_kernel)
    with cvm_session.boot(prepared, rerun=f"pytest {__file__}") as run:
        run.load(Touch(bytes=128 * MIB))
        assert run.conclude().status is Status.PASS
    return RunView.load(run.directory.path)


def test_kunit_reads_the_ktap(view: RunView) -> None:
    found = sorted(
        Store().root.glob("entries/kernel-source/*/tree/tools/testing/kunit/kunit_parser.py")
    )
    if not found:
        pytest.skip("no kernel source in the cache has kunit's parser")
    for parser in found:
        kunit = {
            "PYTHONPATH": str(parser.parent),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        result = subprocess.run(
            [sys.executable, "-c", _KUNIT],
            input=ktap([view]),
            env=os.environ | kunit,
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        assert f"RESULT SUCCESS {len(view.checks)} 0" in result.stdout, parser


def test_kcidb_takes_the_run(view: RunView) -> None:
    report = json.loads(json.dumps(kcidb([view], "cvm_harness")))
    assert kcidb_io.schema.LATEST.is_valid_exactly(report)
    numbers = [test for test in report["tests"] if "number" in test]
    assert len(numbers) >= 15


def test_the_index_knows_the_run_and_its_figures(view: RunView) -> None:
    index = index_of(view.path.parent)
    (row,) = [row for row in index.runs() if row.id == view.id]
    values = [p.value for p in index.history("workload.touched_bytes") if p.row.id == view.id]
    assert row.status == "PASS"
    assert row.workload == "touch"
    assert values == [128 * MIB]
