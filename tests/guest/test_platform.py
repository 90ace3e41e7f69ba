# SPDX-License-Identifier: MIT
"""What the emulated platform can be: larger than the host, NUMA, without the feature."""

import subprocess

import pytest

from harness.base.status import PreconditionError, Status
from harness.base.units import GIB, MIB, PAGE_SIZE, UNIT_SIZE
from harness.run.run import Run
from harness.suite.plugin.fixtures import Boot
from harness.workloads.touch import Touch

pytestmark = pytest.mark.guest


def test_a_guest_of_64_gib_leaves_more_than_60_unaccepted(boot: Boot) -> None:
    with boot(memory=64 * GIB) as run:
        outcome = run.conclude()
    assert outcome.status is Status.PASS, outcome.cause
    assert run.guest.boot.init.nr_unaccepted_pages * PAGE_SIZE > 60 * GIB


def test_numa_guest_counts_per_node(boot: Boot) -> None:
    with boot(numa_nodes=2) as run:
        run.load(Touch(bytes=256 * MIB))
        outcome = run.conclude()
    assert outcome.status is Status.PASS, outcome.cause
    assert len(outcome.after.node_unaccepted_kib) == 2
    assert all(kib > 0 for kib in outcome.after.node_unaccepted_kib.values())


def test_a_guest_whose_platform_is_off_is_an_error_not_a_pass(boot: Boot) -> None:
    # The last unaccepted_emulation= wins, and one that is not understood leaves the platform off.
    with (
        pytest.raises(PreconditionError, match="does not prove to be"),
        boot(extra_cmdline=("unaccepted_emulation=route=nowhere",)),
    ):
        pytest.fail("the guest was handed out although its platform is off")


def test_cost_model_makes_each_unit_take_its_time(boot: Boot, cvm_spec: object) -> None:
    from harness.targets.choose import guest_spec

    with boot(spec=guest_spec(memory="1G", cost="1300000")) as run:
        run.load(Touch(bytes=256 * MIB))
        outcome = run.conclude()
    assert outcome.status is Status.PASS, outcome.cause
    assert outcome.accepts is not None
    assert outcome.accepts.summary.accept is not None
    spent = outcome.accepts.summary.accept.total_ns
    assert spent >= outcome.accepts.summary.bytes_accepted / UNIT_SIZE * 1_300_000


def test_guest_answers_ssh_and_says_which_kernel(guest: Run) -> None:
    result = guest.guest.run(["uname", "-r"])
    assert result.stdout.decode().strip() == guest.guest.boot.init.fields["release"]


def test_people_get_in_with_the_stock_client_and_the_host_key_pinned(guest: Run) -> None:
    command = [*guest.guest.stock_ssh(), "uname -r"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.strip() == guest.guest.boot.init.fields["release"], done.stderr
