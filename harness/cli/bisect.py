# SPDX-License-Identifier: MIT
"""`cvm-harness bisect`: which commit broke a test, or made a metric worse."""

from __future__ import annotations

import json
import shlex
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from harness.analysis.metrics import METRICS
from harness.base.spec import GuestSpec
from harness.base.status import HarnessError, UsageError
from harness.base.ui import ProgressLine
from harness.cli.options import guest_options, json_option
from harness.record.journal import Journal
from harness.record.rundir import plain, write_json
from harness.report import terminal

JOURNAL = "journal.jsonl"


def is_metric(what: str) -> bool:
    """Whether `what` is a metric's name, and not a test's."""
    return what in {metric.name for metric in METRICS}


@click.command()
@click.argument("what", metavar="TEST|METRIC", nargs=-1, required=True)
@click.option("--good", required=True, help="A commit that is good.")
@click.option("--bad", default="HEAD", show_default=True, help="A commit that is bad.")
@click.option(
    "--repo",
    default=Path(),
    type=click.Path(path_type=Path),
    help="The kernel's repository; it is only read.  [default: this directory]",
)
@click.option(
    "--workload",
    default="touch",
    show_default=True,
    help="For a metric: the workload with its options, as one word: 'touch --bytes=256M'.",
)
@click.option("--guests", default=3, show_default=True, help="For a metric: guests per commit.")
@click.option("--most", default=24, show_default=True, help="For a metric: guests at most.")
@click.option(
    "--threshold",
    type=float,
    help="For a metric: percent above the good end that are bad.  [default: half of the change]",
)
@click.option(
    "--any-failure", is_flag=True, help="For a test: take every FAIL for the bug, however it looks."
)
@click.option("--option", "options", multiple=True, help="For a test: another option for pytest.")
@click.option("--fragment", multiple=True, help="Another config fragment. May be repeated.")
@click.option("--set", "setting", multiple=True, help="Set a config symbol. May be repeated.")
@click.option(
    "--directory",
    type=click.Path(path_type=Path),
    help="Where everything goes; one that exists is taken up again.  [default: bisects/<time>]",
)
@guest_options()
@json_option
def bisect(
    what: tuple[str, ...],
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
    from harness.jobs.bisect.bisect import Bisect, resolve_range
    from harness.jobs.lab import LocalLab
    from harness.jobs.ledger import Ledger
    from harness.report.summaries import print_result

    out, err = terminal.consoles()
    good, bad = resolve_range(repo, given["good"], given["bad"])
    asked = {
        "what": list(what),
        "repo": str(repo.resolve()),
        "good": good,
        "bad": bad,
        "options": plain({k: v for k, v in given.items() if k not in ("good", "bad")}),
    }
    directory = directory or Path("bisects") / f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    _same_question(directory, asked)
    with Journal(directory / JOURNAL) as journal, ProgressLine(err):
        journal.append("session")
        ledger = Ledger(directory.resolve(), journal, LocalLab())
        bisection = Bisect(
            *(ledger, _trial(ledger, what, given), repo.resolve(), good, bad),
            fragments=given["fragment"],
            settings=given["setting"],
            target=given["spec"].target,
            say=lambda text: err.print(text, markup=False),
        )
        try:
            result = bisection.run()
        except KeyboardInterrupt:
            again = f"{shlex.join(sys.argv[1:])} --directory={directory}"
            err.print(f"to go on: cvm-harness {again}", markup=False)
            raise
        journal.append("result", **plain(result))
    write_json(directory / "bisect.json", {"question": asked, "result": result})
    if as_json:
        out.print_json(json.dumps(plain(result)))
    else:
        print_result(out, result, directory)
    sys.exit(result.status.exit_code)


def _same_question(directory: Path, asked: dict[str, object]) -> None:
    """Note the question in a new directory; one that exists must be about the same."""
    file = directory / "question.json"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        if file.exists() and json.loads(file.read_text()) != asked:
            raise UsageError(
                f"{directory} is about another question",
                hint="give the same options to go on, or another --directory",
            )
        write_json(file, asked)
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot use {directory}: {error}") from error


def _trial(ledger: Any, what: tuple[str, ...], given: dict[str, Any]) -> Any:
    """What answers the question."""
    from harness.jobs.bisect.trial import MetricQuestion, MetricTrial, SuiteTrial

    spec: GuestSpec = given["spec"]
    if not is_metric(what[0]):
        return SuiteTrial(ledger, test_question(what, spec, given))
    if len(what) > 1:
        raise UsageError("one metric at a time")
    workload, *options = shlex.split(given["workload"])
    question = MetricQuestion(
        what[0], workload, spec, tuple(options), guests=given["guests"], most=given["most"]
    )
    if given["threshold"] is not None:
        question = replace(question, threshold=given["threshold"] / 100)
    return MetricTrial(ledger, question)


def test_question(what: tuple[str, ...], spec: GuestSpec, given: dict[str, Any]) -> Any:
    """The question about tests. Raises UsageError for tests that are not there."""
    from harness.jobs.bisect.trial import SuiteQuestion

    for test in what:
        if not Path(test.partition("::")[0]).exists():
            raise UsageError(
                f"{test} is neither a metric nor a test",
                hint="see docs/metrics.md, or give a path from this directory",
            )
    return SuiteQuestion(what, spec, given["options"], any_failure=given["any_failure"])


@click.command("bisect-step")
@click.argument("what", metavar="TEST|METRIC", nargs=-1, required=True)
@click.option("--above", type=float, help="For a metric: the commit is bad above this value.")
@click.option(
    "--repo",
    default=Path(),
    type=click.Path(path_type=Path),
    help="The repository git is bisecting.  [default: this directory]",
)
@click.option("--workload", default="touch", show_default=True, help="For a metric: as in bisect.")
@click.option("--guests", default=3, show_default=True, help="For a metric: guests; the median.")
@click.option("--repeats", default=1, show_default=True, help="For a test: passes to be good.")
@click.option("--option", "options", multiple=True, help="For a test: another option for pytest.")
@click.option(
    "--directory",
    default=Path("bisects/step"),
    show_default=True,
    type=click.Path(path_type=Path),
    help="Where everything goes.",
)
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
