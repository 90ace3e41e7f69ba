# SPDX-License-Identifier: MIT
"""Fixtures that boot guests. What they need is imported when a test asks for one."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from harness.base.status import GuestFailure, HarnessError, Status, UsageError
from harness.suite.plugin.options import command_line_spec, option, rerun_command, snapshot_mode

if TYPE_CHECKING:
    from harness.base.spec import GuestSpec
    from harness.collect.plan import Collect
    from harness.kernel.kernel import Kernel
    from harness.run.run import Run
    from harness.run.session import Session
    from harness.suite.pool import Director, Pool
    from harness.suite.subject import Subject

Boot = Callable[..., contextlib.AbstractContextManager["Run"]]


@pytest.fixture(scope="session")
def cvm_spec(pytestconfig: pytest.Config) -> GuestSpec:
    """The guest that the command line's options describe."""
    return command_line_spec(pytestconfig)


@pytest.fixture(scope="session")
def cvm_session(pytestconfig: pytest.Config) -> Session:
    """Store and runs directory shared by all tests."""
    from harness.run.session import Session

    runs = Path(option(pytestconfig, "--runs"))
    return Session(runs=runs, snapshot=snapshot_mode(pytestconfig))


@pytest.fixture(scope="session")
def cvm_kernel(pytestconfig: pytest.Config, cvm_session: Session, cvm_spec: GuestSpec) -> Kernel:
    """The kernel under test, built on first use."""
    return cvm_session.kernel_for(
        cvm_spec,
        option(pytestconfig, "--kernel"),
        patches=[Path(file) for file in option(pytestconfig, "--patch")],
        settings=option(pytestconfig, "--set"),
        extra=option(pytestconfig, "--fragment"),
    )


@pytest.fixture
def boot(
    cvm_session: Session, cvm_spec: GuestSpec, cvm_kernel: Kernel, request: pytest.FixtureRequest
) -> Boot:
    """`with boot(memory=..., vcpus=...) as run:` boots a proven guest.

    Keyword arguments replace fields of the command line's GuestSpec; `spec=` replaces it whole.
    `collect=` says what is collected. The run's properties go into pytest's JUnit XML.
    """

    @contextlib.contextmanager
    def start(
        *,
        spec: GuestSpec | None = None,
        kernel: Kernel | None = None,
        collect: Collect | None = None,
        **changes: Any,
    ) -> Iterator[Run]:
        from harness.analysis.metrics import properties
        from harness.record.view import RunView
        from harness.targets.registry import target_for

        wanted = dataclasses.replace(spec or cvm_spec, **changes)
        try:
            target_for(wanted.target).check(wanted)
        except UsageError as error:
            pytest.skip(f"not on {wanted.target.value}: {error.cause}")
        prepared = cvm_session.prepare(wanted, kernel or cvm_kernel)
        rerun = rerun_command(request.config, request.node.nodeid)
        run = None
        try:
            with cvm_session.boot(prepared, rerun=rerun, collect=collect) as run:
                yield run
        finally:
            if run is not None:
                view = RunView.load(run.directory.path)
                request.node.user_properties.extend(properties(view))

    return start


@pytest.fixture
def guest(boot: Boot) -> Iterator[Run]:
    """A booted, proven guest. When the test is over every invariant is checked."""
    with boot() as run:
        yield run
        outcome = run.conclude()
    if outcome.status is Status.FAIL:
        raise GuestFailure(outcome.cause, details=[f"run directory: {run.directory.path}"])
    if outcome.status is not Status.PASS:
        raise HarnessError(outcome.cause, details=[f"run directory: {run.directory.path}"])


@pytest.fixture(scope="session")
def guest_pool(cvm_session: Session, cvm_kernel: Kernel) -> Iterator[Pool]:
    """The guests that tests share."""
    from harness.suite.pool import pool_of

    pool = pool_of(cvm_session, cvm_kernel)
    yield pool
    pool.drop()


@pytest.fixture
def host_turn(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, cvm_spec: GuestSpec
) -> Iterator[None]:
    """With pytest-xdist: a guest with many more vCPUs than processors has the host for itself."""
    if not hasattr(request.config, "workerinput"):
        yield
        return
    import os

    from harness.suite.plugin.acceptance import need_of
    from harness.suite.turns import turn

    vcpus = need_of(request.node).guest.get("vcpus", cvm_spec.vcpus)
    wide = vcpus > 2 * len(os.sched_getaffinity(0))
    with turn(tmp_path_factory.getbasetemp().parent, alone=wide):  # the workers' common directory
        yield


@pytest.fixture
def subject(
    request: pytest.FixtureRequest,
    host_turn: None,
    guest_pool: Pool,
    cvm_kernel: Kernel,
    cvm_spec: GuestSpec,
) -> Iterator[Subject]:
    """The guest this test asks for in its `acceptance` mark, with its preconditions checked."""
    from harness.suite.plugin.acceptance import subject_for

    yield from subject_for(request.node, guest_pool, cvm_kernel, cvm_spec)


@pytest.fixture
def director(
    guest_pool: Pool, cvm_kernel: Kernel, cvm_spec: GuestSpec, pytestconfig: pytest.Config
) -> Director:
    """Hands out fresh guests, one after the other."""
    from harness.kernel.version import Version
    from harness.suite.plugin.acceptance import known_defects
    from harness.suite.pool import Director

    version = Version.parse(cvm_kernel.version)
    return Director(guest_pool, cvm_spec, version, known_defects(pytestconfig))
