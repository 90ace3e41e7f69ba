# SPDX-License-Identifier: MIT
"""The suite's part of the pytest plugin: tiers, shared guests, invariants around every test.

A test marked `acceptance` gets a `subject`. When its body has ended, however it did, the window is
closed, every invariant is checked, known defects are set aside, and the one verdict is raised.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from harness.base.status import (
    GuestFailure,
    HarnessError,
    HostError,
    NotApplicable,
    PreconditionError,
    Status,
)
from harness.kernel.overhead import overhead
from harness.kernel.version import Version
from harness.suite.expectations import Expectation, load_expectations
from harness.suite.features import FEATURES, missing_feature
from harness.suite.judge import INTACT, Verdict, judge_test
from harness.suite.need import Need, Tier, with_room_for
from harness.suite.pool import Pool, Shared
from harness.suite.subject import Subject
from harness.suite.turns import turn

if TYPE_CHECKING:
    from harness.base.spec import GuestSpec
    from harness.kernel.kernel import Kernel
    from harness.run.run import Run
    from harness.run.session import Session

_SUBJECT = pytest.StashKey[Subject]()
_SHARED = pytest.StashKey[Shared]()
_KNOWN = pytest.StashKey[Iterable[Expectation]]()
_VERSION = pytest.StashKey[Version]()
_ERRORS: dict[Status, type[HarnessError]] = {
    Status.FAIL: GuestFailure,
    Status.ERROR: PreconditionError,
    Status.MISS: HostError,
}


def pytest_configure(config: pytest.Config) -> None:
    """Read what is known; say which marks there are."""
    config.addinivalue_line(
        "markers", "acceptance(...): a test of the suite; see harness.suite.need"
    )
    config.addinivalue_line("markers", "tier(name): quick, full or soak: the first that runs it")
    config.stash[_KNOWN] = load_expectations()


def need_of(item: pytest.Item) -> Need:
    """All of an item's `acceptance` marks, the closest first to decide."""
    arguments: dict[str, Any] = {}
    for mark in item.iter_markers("acceptance"):
        arguments = {**mark.kwargs, **arguments}
    return Need.of(arguments)


def tier_of(item: pytest.Item) -> Tier:
    """The tier of an item: its closest `tier` mark; quick without one."""
    mark = item.get_closest_marker("tier")
    return Tier.parse(mark.args[0]) if mark else Tier.QUICK


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what a higher tier runs; put tests that want the same guest next to each other."""
    wanted = Tier.parse(config.getoption("--tier"))
    try:
        for item in items:
            if unknown := [name for name in need_of(item).features if name not in FEATURES]:
                raise pytest.UsageError(f"{item.nodeid}: unknown feature {unknown[0]!r}")
        later = [item for item in items if tier_of(item) > wanted]
    except HarnessError as error:
        raise pytest.UsageError(error.cause) from None
    if later:
        config.hook.pytest_deselected(items=later)
        items[:] = [item for item in items if tier_of(item) <= wanted]
    base = _base_spec(config)
    order: dict[GuestSpec | None, int] = {}
    keys: dict[pytest.Item, tuple[int, bool, bool, bool]] = {}
    for item in items:
        need = need_of(item)
        if not item.get_closest_marker("acceptance") or need.cannot_on(base.target):
            keys[item] = (-1, False, False, False)  # wants no guest, or its fixture will say so
            continue
        place = order.setdefault(need.spec(base), len(order))
        keys[item] = (place, need.spoils, need.ahead, need.fresh)
        # By module, too: the guest that most tests share is not all one worker's.
        item.add_marker(pytest.mark.xdist_group(f"{item.path.name}-{place}"))
    items.sort(key=keys.__getitem__)


def _base_spec(config: pytest.Config) -> GuestSpec:
    from harness.suite.plugin.guests import command_line_spec

    return command_line_spec(config)


@pytest.fixture(scope="session")
def guest_pool(cvm_session: Session, cvm_kernel: Kernel) -> Iterator[Pool]:
    """The guests that tests share."""

    def boot(spec: GuestSpec) -> contextlib.AbstractContextManager[Run]:
        rerun = "cvm-harness boot"  # a shared guest belongs to no single test
        spec = with_room_for(spec, overhead(cvm_kernel))
        return cvm_session.boot(cvm_session.prepare(spec, cvm_kernel), rerun=rerun)

    pool = Pool(boot)
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
    vcpus = need_of(request.node).vcpus or cvm_spec.vcpus
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
    item = request.node
    need = need_of(item)
    if why := need.cannot_on(cvm_spec.target):
        pytest.skip(why)
    try:
        shared = guest_pool.take(need.spec(cvm_spec), need)
    except NotApplicable as reason:
        pytest.skip(reason.cause)
    lacks = missing_feature(shared.run, need.features)
    if lacks:
        pytest.skip(lacks)
    boot_checks = [] if shared.used else shared.boot_checks()
    shared.used = True
    found = Subject(shared.run, shared.observer, need, boot_checks)
    item.stash[_SUBJECT] = found
    item.stash[_SHARED] = shared
    item.stash[_VERSION] = Version.parse(cvm_kernel.version)
    yield found
    del item.stash[_SUBJECT], item.stash[_SHARED]
    if not shared.usable:
        guest_pool.drop()


@dataclass(frozen=True)
class Director:
    """For tests that take one guest after the other."""

    pool: Pool
    base: GuestSpec
    version: Version
    """Of the kernel under test."""
    known: Iterable[Expectation]

    def fresh(self, need: Need) -> Subject:
        """A guest that nobody has used. Raises as Pool.take; PreconditionError for a feature."""
        shared = self.pool.take(need.spec(self.base), dataclasses.replace(need, fresh=True))
        if lacks := missing_feature(shared.run, need.features):
            raise PreconditionError(lacks)
        shared.used = True
        return Subject(shared.run, shared.observer, need, shared.boot_checks())

    def release(self) -> None:
        """End the guest."""
        self.pool.drop()


@pytest.fixture
def director(
    guest_pool: Pool, cvm_kernel: Kernel, cvm_spec: GuestSpec, pytestconfig: pytest.Config
) -> Director:
    """Hands out fresh guests, one after the other."""
    version = Version.parse(cvm_kernel.version)
    return Director(guest_pool, cvm_spec, version, pytestconfig.stash[_KNOWN])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    """Run the test's body, then check every invariant, then raise the one verdict."""
    subject = item.stash.get(_SUBJECT, None)
    if subject is None:
        return (yield)
    error: Exception | None = None
    try:
        yield
    except (pytest.skip.Exception, pytest.xfail.Exception):
        raise
    except pytest.fail.Exception as failure:
        error = AssertionError(str(failure))
    except Exception as failure:
        error = failure
    shared = item.stash[_SHARED]
    shared.usable = False
    checks = subject.conclude(error)
    shared.checks += checks
    verdict = judge_test(checks, short_name(item), item.stash[_VERSION], item.config.stash[_KNOWN])
    shared.ahead |= subject.need.ahead
    shared.usable = verdict.status is Status.PASS and not subject.need.spoils
    shared.usable &= error is None and INTACT.issuperset(verdict.signals)
    _publish(item, verdict)
    if verdict.status in _ERRORS:
        details = (*verdict.details, f"run directory: {subject.run.directory.path}")
        raise _ERRORS[verdict.status](verdict.cause, details=details) from error
    if verdict.expected:
        pytest.xfail("; ".join(entry.describe() for entry in verdict.expected))
    return None


def short_name(item: pytest.Item) -> str:
    """ "test_file.py::test_name[parameters]": what expectations and the catalogue call a test."""
    return f"{item.path.name}::{item.name}"


def _publish(item: pytest.Item, verdict: Verdict) -> None:
    """What machines read: in the JUnit file, and in the file of --verdicts."""
    item.user_properties.append(("status", verdict.status.value))
    item.user_properties.append(("signals", list(verdict.signals)))
    item.user_properties.append(("expected", [entry.id for entry in verdict.expected]))
    item.user_properties.append(("cause", verdict.cause))


class VerdictFile:
    """Writes one JSON object a line as tests end: test, status, signals, expected, cause, time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.write_text("")
        self._setup_s: dict[str, float] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """One line when a test's call is over, or its setup if it came to no more."""
        if str(report.outcome) == "rerun":  # pytest-rerunfailures: what the next try says counts
            return
        if report.when == "setup":
            self._setup_s[report.nodeid] = report.duration
        if report.when != "call" and report.outcome == "passed":
            return
        known = dict(report.user_properties)
        line = {
            "test": report.nodeid,
            "when": report.when,
            "outcome": report.outcome,
            "status": known.get("status", _status_of(report)),
            "signals": known.get("signals", []),
            "expected": known.get("expected", []),
            "cause": known.get("cause", ""),
            "setup_s": self._setup_s.get(report.nodeid, 0.0),
            "call_s": report.duration if report.when == "call" else 0.0,
        }
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def _status_of(report: pytest.TestReport) -> str:
    """For tests that published none."""
    return {"passed": Status.PASS, "skipped": Status.SKIP}.get(report.outcome, Status.FAIL).value
