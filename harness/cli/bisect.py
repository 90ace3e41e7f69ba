# SPDX-License-Identifier: MIT
"""`cvm-harness bisect`: which commit broke a test, or made a metric worse."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from harness.analysis.metrics import METRICS
from harness.base.status import HarnessError, UsageError
from harness.base.ui import ProgressLine
from harness.cli.common import leave, print_json, timestamp
from harness.cli.options import (
    PATH,
    guest_options,
    json_option,
    measure_options,
    pytest_option,
    series_options,
)
from harness.record.rundir import plain, write_json
from harness.report import terminal

if TYPE_CHECKING:
    from harness.jobs.bisect.trial import MetricTrial, SuiteTrial
    from harness.jobs.ledger import Ledger

_what = click.argument("what", metavar="TEST|METRIC", nargs=-1, required=True)
_repo = click.option(
    "--repo",
    default=Path(),
    show_default=False,
    type=PATH,
    help="The kernel's repository; it is only read.  [default: this directory]",
)


def is_metric(what: str) -> bool:
    """Whether `what` is a metric's name, and not a test's."""
    return what in {metric.name for metric in METRICS}


@click.command()
@_what
@click.option("--good", required=True, help="A commit that is good.")
@click.option("--bad", default="HEAD", help="A commit that is bad.")
@_repo
@click.option("--most", default=24, help="For a metric: guests at most.")
@click.option(
    "--threshold",
    type=float,
    help="For a metric: percent above the good end that are bad.  [default: half of the change]",
)
@click.option(
    "--any-failure", is_flag=True, help="For a test: take every FAIL for the bug, however it looks."
)
@series_options("bisects")
@guest_options()
@json_option
def bisect(
    what: tuple[str, ...],
    good: str,
    bad: str,
    repo: Path,
    directory: Path | None,
    as_json: bool,
    **given: Any,
) -> None:
    """Find the commit between --good and --bad that broke TEST (a pytest node id), or that made
    METRIC worse (docs/metrics.md lists them).

    Both ends are proven first. Commits that do not build, or fail for another reason, are skipped;
    a bug that strikes now and then is given as many runs as it needs to show. For a metric, use
    --clock=icount: then a few guests tell differences of a tenth of a percent.

    \b
    cvm-harness bisect --good v6.12 --bad mm-unstable tests/acceptance/test_accounting.py
    cvm-harness bisect --good v6.12 cost.workload --clock icount --workload 'touch --bytes=1G'
    """
    from harness.jobs.bisect.bisect import Bisect
    from harness.jobs.lab import Lab
    from harness.jobs.ledger import open_ledger
    from harness.jobs.patchsets import resolve_commit
    from harness.report.summaries import print_result

    out, err = terminal.consoles()
    repo = repo.resolve()
    ends = {"good": resolve_commit(repo, good), "bad": resolve_commit(repo, bad)}
    asked = plain({"what": what, "repo": repo, **ends, "options": given})
    directory = directory or Path("bisects") / timestamp()
    with open_ledger(directory, Lab()) as ledger, ProgressLine(err):
        ledger.about(asked)
        ledger.journal.append("session")
        bisection = Bisect(
            *(ledger, _trial(ledger, what, given), repo, ends["good"], ends["bad"]),
            fragments=given["fragments"],
            settings=given["settings"],
            target=given["spec"].target,
            say=lambda text: err.print(text, markup=False),
        )
        try:
            result = bisection.run()
        except KeyboardInterrupt:
            again = f"{shlex.join(sys.argv[1:])} --directory={directory}"
            err.print(f"to go on: cvm-harness {again}", markup=False)
            raise
        ledger.journal.append("result", **plain(result))
    write_json(directory / "bisect.json", {"question": asked, "result": result})
    if as_json:
        print_json(result)
    else:
        print_result(out, result, directory)
    leave(result.status)


def _trial(
    ledger: Ledger, what: tuple[str, ...], given: dict[str, Any]
) -> SuiteTrial | MetricTrial:
    """What answers the question. Raises UsageError for tests that are not there."""
    from harness.jobs.bisect.trial import MetricTrial, SuiteTrial
    from harness.jobs.ledger import Measurement

    spec = given["spec"]
    if is_metric(what[0]):
        if len(what) > 1:
            raise UsageError("one metric at a time")
        workload = tuple(shlex.split(given["workload"]))
        measurement = Measurement(what[0], workload, spec, given["guests"])
        threshold = given["threshold"] and given["threshold"] / 100
        return MetricTrial(ledger, measurement, given["most"], threshold)
    for test in what:
        if not Path(test.partition("::")[0]).exists():
            raise UsageError(
                f"{test} is neither a metric nor a test",
                hint="see docs/metrics.md, or give a path from this directory",
            )
    return SuiteTrial(ledger, what, spec, given["options"], given["any_failure"])


@click.command("bisect-step")
@_what
@click.option("--above", type=float, help="For a metric: the commit is bad above this value.")
@_repo
@measure_options
@click.option("--repeats", default=1, help="For a test: passes to be good.")
@pytest_option
@click.option("--directory", default=Path("bisects/step"), type=PATH, help="Where everything goes.")
@guest_options()
def bisect_step(what: tuple[str, ...], repo: Path, directory: Path, **given: Any) -> None:
    """One step of `git bisect run cvm-harness bisect-step TEST|METRIC`: judge the current commit.

    Exit codes are git's: 0 good, 1 bad, 125 cannot be said (it does not build, ERROR, MISS), 255
    stop. Works with and without a checkout (`git bisect start --no-checkout`).
    """
    from harness.jobs.bisect.step import judge_step

    _, err = terminal.consoles()
    try:
        code, reason = judge_step(what, repo, directory, is_metric(what[0]), given)
    except HarnessError as error:
        # git takes 2 and 3 for bad; what has to do with us must stop the bisection instead.
        err.print(terminal.error_text(error))
        code, reason = 255, ""
    if reason:
        err.print(reason, markup=False)
    sys.exit(code)
