# SPDX-License-Identifier: MIT
"""The suite's part of the pytest plugin: when the body of a test has ended, however it did, every
invariant is checked, known defects are set aside, and the one verdict is raised."""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterable, Iterator
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
from harness.kernel.version import Version
from harness.suite.features import FEATURES, missing_feature
from harness.suite.judge import INTACT, Expectation, Judgement, expected_on, judge_test
from harness.suite.need import Need, Tier
from harness.suite.plugin.options import command_line_spec, option
from harness.suite.pool import Pool, Shared
from harness.suite.subject import Subject

if TYPE_CHECKING:
    from harness.base.spec import GuestSpec
    from harness.kernel.kernel import Kernel

_SUBJECT = pytest.StashKey[Subject]()
_SHARED = pytest.StashKey[Shared]()
_KNOWN = pytest.StashKey[Iterable[Expectation]]()
_VERSION = pytest.StashKey[Version]()
_ERRORS: dict[Status, type[HarnessError]] = {
    Status.FAIL: GuestFailure,
    Status.ERROR: PreconditionError,
    Status.MISS: HostError,
}


def known_defects(config: pytest.Config) -> Iterable[Expectation]:
    """The defects that are expected on the command line's target, read once."""
    if _KNOWN not in config.stash:
        config.stash[_KNOWN] = expected_on(command_line_spec(config).target)
    return config.stash[_KNOWN]


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


def choose(config: pytest.Config, items: list[pytest.Item], ours: Collection[pytest.Item]) -> None:
    """Leave out what a higher tier runs; put tests that want the same guest next to each other.
    `items` is changed in place; of those that are not `ours` nothing is left out."""
    wanted = Tier.parse(option(config, "--tier"))
    try:
        for item in ours:
            if unknown := [name for name in need_of(item).features if name not in FEATURES]:
                raise pytest.UsageError(f"{item.nodeid}: unknown feature {unknown[0]!r}")
        later = [item for item in ours if tier_of(item) > wanted]
    except HarnessError as error:
        raise pytest.UsageError(error.cause) from None
    if later:
        config.hook.pytest_deselected(items=later)
        items[:] = [item for item in items if item not in later]
    base = command_line_spec(config)
    order: dict[GuestSpec | None, int] = {}
    keys: dict[pytest.Item, tuple[int, bool, bool, bool]] = {}
    for item in items:
        need = need_of(item) if item in ours else None
        marked = item.get_closest_marker("acceptance")
        if need is None or not marked or need.cannot_on(base.target):
            keys[item] = (-1, False, False, False)  # wants no guest, or its fixture will say so
            continue
        place = order.setdefault(need.spec(base), len(order))
        keys[item] = (place, need.spoils, need.ahead, need.fresh)
        # By module, too: the guest that most tests share is not all one worker's.
        item.add_marker(pytest.mark.xdist_group(f"{item.path.name}-{place}"))
    items.sort(key=keys.__getitem__)


def subject_for(
    item: pytest.Item, guest_pool: Pool, cvm_kernel: Kernel, cvm_spec: GuestSpec
) -> Iterator[Subject]:
    """The body of the fixture `subject`."""
    need = need_of(item)
    if why := need.cannot_on(cvm_spec.target):
        pytest.skip(why)
    try:
        shared = guest_pool.take(need.spec(cvm_spec), need)
    except NotApplicable as reason:
        pytest.skip(reason.cause)
    if lacks := missing_feature(shared.run, need.features):
        pytest.skip(lacks)
    found = shared.subject(need)
    item.stash[_SUBJECT] = found
    item.stash[_SHARED] = shared
    item.stash[_VERSION] = Version.parse(cvm_kernel.version)
    yield found
    del item.stash[_SUBJECT], item.stash[_SHARED]
    if not shared.usable:
        guest_pool.drop()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    """Run the test's body, then check every invariant, then raise the one verdict."""
    subject = item.stash.get(_SUBJECT, None)
    if subject is None:
        try:
            return (yield)
        except NotApplicable as reason:  # a test that boots its guests itself
            pytest.skip(reason.cause)
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
    verdict = judge_test(checks, short_name(item), item.stash[_VERSION], known_defects(item.config))
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


def _publish(item: pytest.Item, verdict: Judgement) -> None:
    """What machines read: in the JUnit file, and in the file of --verdicts."""
    item.user_properties.append(("status", verdict.status.value))
    item.user_properties.append(("signals", list(verdict.signals)))
    item.user_properties.append(("expected", [entry.id for entry in verdict.expected]))
    item.user_properties.append(("cause", verdict.cause))
