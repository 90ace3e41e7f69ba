# SPDX-License-Identifier: MIT
"""The pytest door, loaded into every pytest of the environment it is installed in: where no test
asks for a guest and none of its options is given, it does nothing."""

from collections.abc import Generator, Sequence
from pathlib import Path

import pytest

from harness.base.status import EmulatorFlaw, HarnessError, UsageError
from harness.suite.plugin import fixtures, verdicts
from harness.suite.plugin.options import (
    ACTIVE,
    TAKEN,
    active,
    add_options,
    command_line_spec,
    option,
    snapshot_mode,
    was_given,
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addini(ACTIVE, "the tiers and grouping of the harness are for all tests", "bool", False)


@pytest.hookimpl(wrapper=True)
def pytest_load_initial_conftests(
    early_config: pytest.Config, parser: pytest.Parser
) -> Generator[None, None, None]:
    """Add our options when all others have added theirs."""
    yield
    early_config.stash[TAKEN] = add_options(parser)


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """With pytest-xdist, tests that share a guest go to one worker unless --dist says otherwise."""
    given = config.option
    if active(config) and getattr(given, "numprocesses", None) and given.dist == "no":
        given.dist = "loadgroup"


def pytest_configure(config: pytest.Config) -> None:
    """Check the options before anything is collected; a target that cannot run ends here."""
    for line in (
        "guest: boots a guest under QEMU",
        "acceptance(...): a test of the suite; see harness.suite.need",
        "tier(name): quick, full or soak: the first that runs it",
    ):
        config.addinivalue_line("markers", line)
    config.pluginmanager.register(fixtures, "cvm-harness-fixtures")
    config.pluginmanager.register(verdicts.Reports(), "cvm-harness-reports")
    if not was_given(config):
        return
    from harness.base.store import Store
    from harness.suite.need import Tier
    from harness.targets.facts import host_facts
    from harness.targets.registry import target_for

    try:
        Tier.parse(option(config, "--tier"))
        snapshot_mode(config)
        spec = command_line_spec(config)
        # Where QEMU emulates the platform it may have to be built: a test that boots does that.
        emulated = target_for(spec.target).platform_emulated(spec)
        if option(config, "--target") not in (None, "auto") and not emulated:
            host_facts(spec, Store())
    except UsageError as error:
        raise pytest.UsageError(verdicts.one_line(error)) from None
    except HarnessError as error:
        text = f"{error.status.value}: {verdicts.one_line(error)}"
        pytest.exit(text, returncode=error.exit_code)
    file = option(config, "--verdicts")
    if file and not hasattr(config, "workerinput"):  # with xdist: not in workers
        config.pluginmanager.register(verdicts.VerdictFile(Path(file)))


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tiers, reruns and grouping for tests that ask for a guest."""
    ours = [item for item in items if verdicts.wants_guest(item)]
    if not ours and not active(config):
        return
    from harness.run.boots import ATTEMPTS
    from harness.suite.plugin import acceptance

    # A test that QEMU itself spoils is run again, as a boot is (harness.run.boots).
    again = pytest.mark.flaky(reruns=ATTEMPTS - 1, only_rerun=EmulatorFlaw)
    for item in ours:
        if not item.get_closest_marker("flaky"):
            item.add_marker(again)
    acceptance.choose(config, items, items if active(config) else ours)
    config.pluginmanager.register(acceptance, "cvm-harness-acceptance")


def pytest_report_collectionfinish(
    config: pytest.Config, items: Sequence[pytest.Item]
) -> list[str]:
    """Target, accelerator, kernel and QEMU, each with the reason for it."""
    if not was_given(config) and not any(map(verdicts.wants_guest, items)):
        return []
    from harness.suite.plugin.header import header

    return [f"cvm-harness: {line}" for line in header(config)]
