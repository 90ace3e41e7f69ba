# SPDX-License-Identifier: MIT
"""One step for `git bisect run`: judge the commit that git has chosen, in git's exit codes."""

import shlex
import statistics
from pathlib import Path
from typing import Any

from harness.analysis.metrics import Better, metric_named
from harness.base.status import HarnessError, Status, UsageError
from harness.jobs.lab import BuildJob, Lab, SuiteJob
from harness.jobs.ledger import Ledger, Measurement, open_ledger
from harness.jobs.patchsets import resolve_commit
from harness.kernel.gitcmd import git

GOOD, BAD, SKIP = 0, 1, 125
_OF_STATUS = {Status.PASS: GOOD, Status.DONE: GOOD, Status.FAIL: BAD}


def current_commit(repo: Path) -> str:
    """The commit git bisect wants judged: BISECT_HEAD without a checkout, else HEAD."""
    chosen = git(repo, "rev-parse", "--verify", "--quiet", "BISECT_HEAD")
    return chosen.stdout.decode().strip() or resolve_commit(repo, "HEAD")


def judge_step(
    what: tuple[str, ...],
    repo: Path,
    directory: Path,
    metric: bool,
    given: dict[str, Any],
    lab: Lab | None = None,
) -> tuple[int, str]:
    """git's exit code for the current commit, and the reason. Raises UsageError."""
    commit = current_commit(repo)
    if metric and given["above"] is None:
        raise UsageError("a metric needs --above VALUE", hint="take it from a good and a bad run")
    with open_ledger(directory, lab or Lab()) as ledger:
        job = BuildJob(f"git:{repo.resolve()}@{commit}", target=given["spec"].target)
        try:
            kernel = ledger.build(commit, job)
        except HarnessError as error:
            return SKIP, f"skip: {error.cause}"
        if metric:
            return _measure(ledger, commit, kernel, what[0], given)
        return _test(ledger, commit, kernel, what, given)


def _test(
    ledger: Ledger, commit: str, kernel: Path, tests: tuple[str, ...], given: dict[str, Any]
) -> tuple[int, str]:
    job = SuiteJob(kernel, given["spec"], tests, given["options"])
    for _ in range(max(1, given["repeats"])):
        result = ledger.suite(job, point=commit)
        code = _OF_STATUS.get(result.status, SKIP)
        if code != GOOD:
            break
    return code, f"{result.status.value} {result.cause}".rstrip()


def _measure(
    ledger: Ledger, commit: str, kernel: Path, metric: str, given: dict[str, Any]
) -> tuple[int, str]:
    workload = tuple(shlex.split(given["workload"]))
    what = Measurement(metric, workload, given["spec"])
    try:
        values = ledger.values(what, commit, kernel, tuple(Status), given["guests"])
    except HarnessError as error:
        return SKIP, f"skip: {error.status.value} {error.cause}"
    value = statistics.median(values)
    bad = value > given["above"]
    if metric_named(metric).better is Better.HIGHER:
        bad = value < given["above"]
    return (BAD if bad else GOOD), f"{metric} {value:g}"
