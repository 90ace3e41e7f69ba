# SPDX-License-Identifier: MIT
"""Verdicts in pytest's reports, its exit code, and the file of --verdicts."""

import json
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from harness.base.status import HarnessError, Status, worst
from harness.record.attempts import CaseLine
from harness.record.rundir import plain
from harness.suite.plugin.options import active

_STATUSES: dict[object, Status] = {status.value: status for status in Status}


def wants_guest(item: pytest.Item) -> bool:
    """Whether a test is ours: all our fixtures that boot guests need this one."""
    return "cvm_session" in getattr(item, "fixturenames", ())


def one_line(error: HarnessError) -> str:
    """The cause, and the next step where one is known."""
    return error.cause + (f" ({error.hint})" if error.hint else "")


class Reports:
    """Says what failures stand for, and ends with the exit code of the worst verdict. The exit code
    goes by the reports, which is all that reaches pytest-xdist's controller."""

    def __init__(self) -> None:
        self._statuses: dict[str, Status] = {}

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Say the status that a failure stands for, and show its cause before the traceback."""
        report = yield
        if call.excinfo is not None and isinstance(call.excinfo.value, HarnessError):
            from harness.suite.subject import signal_of

            error = call.excinfo.value
            text = "\n".join([f"{error.status.value}: {one_line(error)}", *error.details])
            report.sections.append(("cvm-harness: verdict", text))
            if report.when == "teardown" or "status" not in dict(report.user_properties):
                report.user_properties.append(("signals", [signal_of(error)]))
            _publish(report, error.status, error.cause)
        elif report.failed and (wants_guest(item) or active(item.config)):
            cause = ""
            if call.excinfo is not None:
                cause = f"{call.excinfo.typename}: {call.excinfo.value}"
            _publish(report, Status.FAIL, cause)
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Remember what a failure stands for; of an earlier try nothing counts."""
        if report.when == "setup":
            self._statuses.pop(report.nodeid, None)
        if report.failed:
            status = _STATUSES.get(dict(report.user_properties).get("status"), Status.FAIL)
            before = self._statuses.get(report.nodeid, status)
            self._statuses[report.nodeid] = worst([status, before])

    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
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


class VerdictFile:
    """Writes one JSON object a line as tests end: test, status, signals, expected, cause, time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.write_text("")
        self._setup_s: dict[str, float] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """One line when a test's call is over, or its setup where nothing follows."""
        if str(report.outcome) == "rerun":  # pytest-rerunfailures: what the next try says counts
            return
        if report.when == "setup":
            self._setup_s[report.nodeid] = report.duration
        if report.when != "call" and report.outcome == "passed":
            return
        known: dict[str, Any] = dict(report.user_properties)
        line = CaseLine(
            test=report.nodeid,
            when=report.when or "",
            outcome=report.outcome,
            status=Status(known.get("status", _status_of(report))),
            signals=tuple(known.get("signals", ())),
            expected=tuple(known.get("expected", ())),
            cause=known.get("cause", ""),
            setup_s=self._setup_s.get(report.nodeid, 0.0),
            call_s=report.duration if report.when == "call" else 0.0,
        )
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(plain(line)) + "\n")


def _status_of(report: pytest.TestReport) -> str:
    return {"passed": Status.PASS, "skipped": Status.SKIP}.get(report.outcome, Status.FAIL).value
