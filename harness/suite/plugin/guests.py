# SPDX-License-Identifier: MIT
"""The pytest door: `pytest --target=auto|emulated|snp|tdx`, fixtures that boot proven guests.

A test asks for `guest` (one booted guest from the command line's options, every invariant checked
when the test ends) or for `boot` (a function that boots guests of its own making). Verdicts keep
their meaning in the exit code: 1 FAIL, 3 ERROR, 69 MISS.
"""

from __future__ import annotations

import contextlib
import dataclasses
import shlex
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from harness.base.options import CONFIDENTIAL_OPTIONS, DEFAULT_KERNEL, choice, spec_arguments
from harness.base.spec import GuestSpec, SnapshotMode, TargetName
from harness.base.status import (
    EmulatorFlaw,
    GuestFailure,
    HarnessError,
    Status,
    UsageError,
    worst,
)
from harness.base.units import GIB
from harness.run.boots import ATTEMPTS
from harness.suite.need import Tier
from harness.suite.plugin import acceptance as suite_plugin
from harness.suite.subject import signal_of
from harness.targets.choose import choose_target, guest_spec

if TYPE_CHECKING:
    from harness.collect.plan import Collect
    from harness.kernel.kernel import Kernel
    from harness.run.run import Run
    from harness.run.session import Session

Boot = Callable[..., contextlib.AbstractContextManager["Run"]]

_EMULATED_MEMORY = 2 * GIB
_SPEC = pytest.StashKey[GuestSpec]()
_SNAPSHOT = pytest.StashKey[SnapshotMode]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options of `cvm-harness run`, for tests."""
    group = parser.getgroup("cvm-harness", "confidential-VM guests")
    group.addoption(
        "--target",
        default="auto",
        help="auto, emulated, snp or tdx; auto takes the best this host can do (default: auto)",
    )
    group.addoption(
        "--kernel",
        default=DEFAULT_KERNEL,
        help="debian:6.12, debian-binary:6.12, a kernel tree, git:REPO@REF, or a bzImage "
        f"(default: {DEFAULT_KERNEL})",
    )
    group.addoption(
        "--memory", help="guest memory (default: 2G; on snp and tdx 16G, of which 14G lie high)"
    )
    group.addoption("--vcpus", type=int, default=2, help="virtual CPUs (default: 2)")
    group.addoption("--accept", default="lazy", help="lazy or eager (default: lazy)")
    group.addoption("--accel", default="auto", help="auto, kvm or tcg (default: auto)")
    group.addoption("--route", default="direct", help="direct or efi (default: direct)")
    group.addoption(
        "--cost", default="free", help="cost model: free, tdx, snp or ns per 2 MiB (default: free)"
    )
    for name, default, words, rest in CONFIDENTIAL_OPTIONS:
        if "/" in name:
            group.addoption(name.split("/")[0], action="store_true", help=words)
        else:
            group.addoption(name, default=default, help=words, **rest)
    group.addoption("--append", default="", help="more words for the guest kernel's command line")
    group.addoption(
        "--patch",
        action="append",
        default=[],
        metavar="FILE",
        help="a patch or mbox to apply to the kernel as well; may be repeated",
    )
    group.addoption(
        "--fragment",
        action="append",
        default=[],
        help="another kernel config fragment: debug, or a file; may be repeated",
    )
    group.addoption(
        "--set",
        dest="setting",
        action="append",
        default=[],
        metavar="SYMBOL=VALUE",
        help="a kernel config symbol on top of the fragments; may be repeated",
    )
    group.addoption(
        "--tier",
        default="quick",
        help="quick (about a minute), full, or soak; each includes the one before (default: quick)",
    )
    group.addoption("--seed", metavar="N", help="of random tests (default: a new one each time)")
    group.addoption(
        "--sequence", metavar="FILE", help="run a random test's reproducer again (docs/suite.md)"
    )
    group.addoption(
        "--verdicts",
        metavar="FILE",
        help="write each test's verdict to FILE, one JSON object each",
    )
    group.addoption(
        "--snapshot",
        default="auto",
        help="auto: guests start from a saved one where that is possible; off: each is booted "
        "(default: auto)",
    )
    group.addoption("--runs", default="runs", help="where run directories go (default: runs)")


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """With pytest-xdist, tests that share a guest go to one worker unless --dist says otherwise."""
    option = config.option
    if getattr(option, "numprocesses", None) and option.dist == "no":
        option.dist = "loadgroup"


def pytest_configure(config: pytest.Config) -> None:
    """Check the options before anything is collected; a target that cannot run ends here."""
    config.addinivalue_line("markers", "guest: boots a guest under QEMU")
    config.pluginmanager.register(ExitCode(), "cvm-harness-exit-code")
    option = config.getoption
    try:
        spec = guest_spec(
            target=option("--target"),
            memory=option("--memory"),
            vcpus=option("--vcpus"),
            accept=option("--accept"),
            accel=option("--accel"),
            route=option("--route"),
            cost=option("--cost"),
            append=option("--append"),
            firmware=option("--firmware"),
            disk=option("--disk"),
            snp_policy=option("--snp-policy"),
            guest_debug=option("--guest-debug"),
            kernel_hashes=option("--kernel-hashes"),
            cpu_model=option("--cpu-model"),
            huge_pages=option("--huge-pages"),
        )
        Tier.parse(option("--tier"))
        config.stash[_SNAPSHOT] = choice(SnapshotMode, option("--snapshot"), "snapshot mode")
        if spec.target is TargetName.EMULATED and not option("--memory"):
            spec = dataclasses.replace(spec, memory=_EMULATED_MEMORY)
        config.stash[_SPEC] = spec
        if spec.target is not TargetName.EMULATED:
            from harness.base.store import Store
            from harness.targets.facts import host_facts

            host_facts(spec, Store())
    except UsageError as error:
        raise pytest.UsageError(_one_line(error)) from None
    except HarnessError as error:
        pytest.exit(f"{error.status.value}: {_one_line(error)}", returncode=error.exit_code)
    config.pluginmanager.register(suite_plugin, "cvm-harness-suite")
    if option("--verdicts") and not hasattr(config, "workerinput"):  # with xdist: not in workers
        config.pluginmanager.register(suite_plugin.VerdictFile(Path(option("--verdicts"))))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test that QEMU itself spoils is run again, as a boot is (harness.run.boots)."""
    again = pytest.mark.flaky(reruns=ATTEMPTS - 1, only_rerun=EmulatorFlaw)
    for item in items:
        boots = "cvm_session" in getattr(item, "fixturenames", ())
        if boots and not item.get_closest_marker("flaky"):
            item.add_marker(again)


def command_line_spec(config: pytest.Config) -> GuestSpec:
    """The guest that the command line's options describe."""
    return config.stash[_SPEC]


def _one_line(error: HarnessError) -> str:
    return error.cause + (f" ({error.hint})" if error.hint else "")


def pytest_report_header(config: pytest.Config) -> list[str]:
    """Target, accelerator, kernel and QEMU, each with the reason for it."""
    from harness.base.store import Store
    from harness.targets.facts import host_facts

    spec = config.stash[_SPEC]
    chosen, why = choose_target(config.getoption("--target"))
    if chosen is not spec.target:
        why = "auto: the options are those of an emulated guest"
    lines = [f"cvm-harness: target {spec.target.value} ({why})"]
    try:
        host = host_facts(spec, Store())
        lines.append(
            f"cvm-harness: QEMU {host.qemu.version}, {host.accel.value} ({host.accel_reason})"
        )
        if host.firmware:
            lines.append(f"cvm-harness: firmware {host.firmware}")
    except HarnessError as error:
        lines.append(f"cvm-harness: {_one_line(error)}")
    emulated = spec.target is TargetName.EMULATED
    lines.append(
        f"cvm-harness: kernel {spec.confidential.disk or config.getoption('--kernel')}, "
        + (f"cost {spec.emulation.cost.name}, " if emulated else "")
        + f"tier {config.getoption('--tier')}"
    )
    return lines


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Say the status that a failure stands for, and show its cause before the traceback."""
    report = yield
    if call.excinfo is not None and isinstance(call.excinfo.value, HarnessError):
        error = call.excinfo.value
        text = "\n".join([f"{error.status.value}: {_one_line(error)}", *error.details])
        report.sections.append(("cvm-harness verdict", text))
        if report.when == "teardown" or "status" not in dict(report.user_properties):
            report.user_properties.append(("signals", [signal_of(error)]))
        _publish(report, error.status, error.cause)
    elif report.failed:
        cause = ""
        if call.excinfo is not None:
            cause = f"{call.excinfo.typename}: {call.excinfo.value}"
        _publish(report, Status.FAIL, cause)
    return report


class ExitCode:
    """Turns pytest's "tests failed" into the exit code of the worst verdict.

    It goes by the reports, which is all that reaches pytest-xdist's controller.
    """

    def __init__(self) -> None:
        self._statuses: dict[str, Status] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Remember what a failure stands for; of an earlier try nothing counts."""
        if report.when == "setup":
            self._statuses.pop(report.nodeid, None)
        if report.failed:
            status = Status(dict(report.user_properties).get("status", Status.FAIL))
            before = self._statuses.get(report.nodeid, status)
            self._statuses[report.nodeid] = worst([status, before])

    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """The worst verdict's, where tests failed."""
        if exitstatus == pytest.ExitCode.TESTS_FAILED and self._statuses:
            session.exitstatus = worst(self._statuses.values()).exit_code


def _publish(report: pytest.TestReport, status: Status, cause: str) -> None:
    """Status and cause for the file of --verdicts; what the test's call said of itself stands,
    unless it is the teardown that failed."""
    known = dict(report.user_properties)
    if report.when == "teardown" or "status" not in known:
        report.user_properties.append(("status", status.value))
    if report.when == "teardown" or not known.get("cause"):
        report.user_properties.append(("cause", cause.partition("\n")[0][:500]))


@pytest.fixture(scope="session")
def cvm_spec(pytestconfig: pytest.Config) -> GuestSpec:
    """The guest that the command line's options describe."""
    return command_line_spec(pytestconfig)


@pytest.fixture(scope="session")
def cvm_session(pytestconfig: pytest.Config) -> Session:
    """Store and runs directory shared by all tests."""
    from harness.run.session import Session

    return Session(
        runs=Path(pytestconfig.getoption("--runs")), snapshot=pytestconfig.stash[_SNAPSHOT]
    )


@pytest.fixture(scope="session")
def cvm_kernel(pytestconfig: pytest.Config, cvm_session: Session, cvm_spec: GuestSpec) -> Kernel:
    """The kernel under test, built on first use."""
    option = pytestconfig.getoption
    return cvm_session.kernel_for(
        cvm_spec,
        option("--kernel"),
        patches=[Path(file) for file in option("--patch")],
        settings=option("setting"),
        extra=option("--fragment"),
    )


_TOLD = ("--target", "--kernel", "--memory", "--vcpus", "--accept", "--accel", "--route", "--cost")
"""The options that name the guest, of those that spec_arguments() makes."""


def rerun_command(config: pytest.Config, test: str) -> str:
    """The command line that runs one test again as it was run."""
    option = config.getoption
    made = spec_arguments(command_line_spec(config), option("--kernel"))
    words = [word for word in made if word.startswith((*_TOLD, "--append"))]
    words += [*kernel_words(config), f"--tier={option('--tier')}"]
    return shlex.join(["pytest", *words, test])


def kernel_words(config: pytest.Config) -> list[str]:
    """What is on top of --kernel, as options."""
    names = ("--patch", "--fragment", "--set")
    return [f"{name}={text}" for name in names for text in config.getoption(name)]


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
        from harness.analysis.properties import properties
        from harness.record.view import RunView

        base = spec or cvm_spec
        try:
            wanted = dataclasses.replace(base, **changes)
        except UsageError as error:
            if base.target is TargetName.EMULATED:
                raise
            pytest.skip(f"not on {base.target.value}: {error.cause}")
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
