# SPDX-License-Identifier: MIT
"""The catalogue of bugs: entries and patches agree; only FAIL for the bug's reason counts."""

import json
import re
import string
from collections.abc import Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from harness.base.reader import convert
from harness.base.resources import checkout
from harness.base.status import HostError, Status, UsageError
from harness.cli.app import app
from harness.jobs.catalogue.entry import (
    FRAGMENT,
    PARAMETER,
    BugEntry,
    Catch,
    load_entries,
    read_entry,
    select,
)
from harness.jobs.catalogue.runner import judge, node_ids, run_catalogue
from harness.kernel.series import read_series
from harness.kernel.version import Version
from harness.record.attempts import CaseVerdict
from harness.report.catalogue import entry_text, result_record, result_rows, summary
from harness.suite.judge import parse_verdicts

V612, V73 = Version(6, 12, 107), Version(7, 3, 4)
TEST = "tests/acceptance/test_x.py::test_y"
_NAME = re.compile(r'^\t\[UNACCEPTED_BUG_\w+\]\s*= "([\w-]+)",$', re.M)
_SINCE = re.compile(
    r"^#if LINUX_VERSION_CODE >= KERNEL_VERSION\((\d+), (\d+), (\d+)\)\n(.*?)^#endif\n", re.M | re.S
)
_NODE = re.compile(r"(?P<file>tests/[\w/]+\.py)::(?P<name>\w+)(?:\[.+\])?")


def verdict(status: Status, *signals: str, cause: str = "", test: str = TEST) -> CaseVerdict:
    return CaseVerdict(test, status, frozenset(signals), cause, 1.0)


def entry(name: str = "a-bug", **changes: object) -> BugEntry:
    table = {
        "id": name,
        "title": "t",
        "symptom": "s",
        "how": "h",
        "since": "6.12",
        "catch": [{"tests": [TEST], "signals": ["double-accept"]}],
    }
    return convert({**table, **changes}, BugEntry, "entry")


# The entries and the patches that are carried.


@pytest.mark.parametrize("version", [V612, V73], ids=str)
def test_every_switch_has_an_entry_and_every_entry_a_switch(version: Version) -> None:
    (patch,) = (
        p for p in read_series().select(version, (FRAGMENT,)) if "known-bugs" in p.file.name
    )
    (source,) = (file for path, file in patch.source_files() if path.endswith("_bugs.c"))

    def of_this_version(match: re.Match[str]) -> str:
        since = Version(*map(int, match.groups()[:3]))
        return match[4] if since <= version else ""

    switches = set(_NAME.findall(_SINCE.sub(of_this_version, source.read_text()))) - {"none"}
    assert len(switches) > 10
    assert {e.id for e in load_entries() if version in e.versions} == switches


def test_every_test_of_an_entry_is_there() -> None:
    for node in {test for e in load_entries() for test in node_ids(e.catches)}:
        match = _NODE.fullmatch(node)
        assert match, node
        assert f"def {match['name']}(" in (checkout() / match["file"]).read_text(), node


def test_at_most_one_bug_is_not_caught() -> None:
    assert len([e.id for e in load_entries() if e.uncaught]) <= 1


def test_each_bug_can_be_shown_by_hand() -> None:
    for bug in load_entries():
        line = bug.by_hand.command_line(bug, "debian:7.3")
        assert f"{PARAMETER}={bug.id}" in line
        assert line.startswith("cvm-harness boot --kernel=debian:7.3 --fragment=bugs")
        assert bug.by_hand.see, bug.id
        assert bug.title in entry_text(bug, "debian:7.3")


# Reading entries.


@pytest.mark.parametrize(
    "changes",
    [
        {"id": "A Bug"},
        {"catch": []},
        {"uncaught": "because"},
        {"nonsense": "x"},
        {"title": 1},
        {"since": "new"},
        {"catch": [{"tests": [TEST]}]},
        {"catch": [{"tests": [], "signals": ["x"]}]},
        {"catch": [{"tests": [TEST], "signals": "x"}]},
        {"by_hand": {"command": "x"}},
    ],
    ids=str,
)
def test_a_wrong_entry_is_refused_with_its_file(tmp_path: Path, changes: dict[str, object]) -> None:
    with pytest.raises(UsageError, match="entry: "):
        entry(**changes)  # type: ignore[arg-type]
    file = tmp_path / "a-bug.toml"
    file.write_text('id = "a-bug"\ntitle = 1\n')
    with pytest.raises(UsageError, match=re.escape(str(file))):
        read_entry(file)


def test_a_file_is_called_like_its_entry(tmp_path: Path) -> None:
    file = tmp_path / "other.toml"
    file.write_text(
        'id = "a-bug"\ntitle = "t"\nsymptom = "s"\nhow = "h"\n'
        '[[catch]]\ntests = ["t.py::t"]\nsignals = ["x"]\n'
    )
    with pytest.raises(UsageError, match="must be called the same"):
        read_entry(file)


def test_an_unknown_bug_is_a_usage_error_that_lists_the_known() -> None:
    with pytest.raises(UsageError, match="no bug called 'none-such'") as caught:
        select([entry()], ["none-such"])
    assert "a-bug" in caught.value.hint


def test_a_catch_can_be_for_some_kernels() -> None:
    bug = entry(catch=[{"tests": [TEST], "signals": ["x"], "before": "7.0"}])
    assert bug.catches_on(V612)
    assert not bug.catches_on(V73)


# Verdicts.


def test_only_fail_for_the_reason_is_a_catch() -> None:
    catch = Catch((TEST,), frozenset({"double-accept"}), cause="guest hung")
    assert judge(catch, verdict(Status.FAIL, "double-accept", "waiting")).caught
    assert judge(catch, verdict(Status.FAIL, cause="the guest hung: …")).caught
    assert not judge(catch, verdict(Status.FAIL, "counters")).caught
    known = CaseVerdict(TEST, Status.PASS, frozenset({"double-accept"}), "", 1.0, frozenset({"A"}))
    assert judge(catch, known).caught, "an expected defect's signal was lost"
    for status in set(Status) - {Status.FAIL}:
        assert not judge(catch, verdict(status, "double-accept")).caught


def line(**changes: object) -> str:
    record = {
        "test": TEST,
        "status": "PASS",
        "signals": [],
        "cause": "",
        "expected": [],
        "setup_s": 1,
        "call_s": 2,
    }
    return json.dumps({**record, **changes}) + "\n"


def test_a_test_with_two_lines_counts_as_the_worse() -> None:
    text = line() + line(status="FAIL", signals=["panic"], cause="panicked") + line(test="other")
    found = parse_verdicts(text)
    assert [(v.test, v.status, v.cause) for v in found] == [
        (TEST, Status.FAIL, "panicked"),
        ("other", Status.PASS, ""),
    ]
    assert found[0].seconds == 6


@given(st.text(alphabet=string.printable, min_size=1).filter(lambda t: t.strip("\r\n\x0b\x0c\x1c")))
def test_nonsense_in_the_verdicts_is_never_believed(text: str) -> None:
    with pytest.raises(HostError):
        parse_verdicts(line() + text)


# Running.


class FakeSuite:
    """Answers for pytest: what each test says with each bug on."""

    def __init__(self, answers: dict[str, CaseVerdict]) -> None:
        self.answers = answers
        self.runs: list[tuple[tuple[str, ...], str]] = []

    def __call__(self, tests: Sequence[str], append: str) -> tuple[CaseVerdict, ...]:
        self.runs.append((tuple(tests), append))
        answer = self.answers.get(append, verdict(Status.PASS))
        return tuple(
            CaseVerdict(t, answer.status, answer.signals, answer.cause, 1.0) for t in tests
        )


def test_a_caught_bug_passes_and_a_missed_one_fails() -> None:
    suite = FakeSuite({f"{PARAMETER}=a-bug": verdict(Status.FAIL, "double-accept")})
    found, missed = run_catalogue([entry(), entry("b-bug")], V612, suite)
    assert (found.status, found.caught) == (Status.PASS, True)
    assert (missed.status, missed.caught) == (Status.FAIL, False)
    assert suite.runs[-1] == ((TEST,), ""), "the tests run once more with every bug off"
    text = summary([found, missed], "6.12.107")
    assert "1 of 2 bugs caught" in text
    assert "b-bug: NOT CAUGHT" in text
    assert result_rows([found]) == [
        ("a-bug", "test_x.py::test_y", "double-accept", "1.0 s", "PASS")
    ]
    assert result_record(found)["tests"][0]["caught"] is True


def test_a_test_that_fails_with_every_bug_off_proves_nothing() -> None:
    suite = FakeSuite(
        {
            f"{PARAMETER}=a-bug": verdict(Status.FAIL, "double-accept"),
            "": verdict(Status.FAIL, "double-accept", cause="always"),
        }
    )
    (result,) = run_catalogue([entry()], V612, suite)
    assert result.status is Status.ERROR
    assert "with every bug off: always" in summary([result], "6.12.107")


def test_what_the_host_kept_from_a_verdict_runs_once_more_and_only_that() -> None:
    other = "tests/acceptance/test_x.py::test_z"
    said = {TEST: [Status.MISS, Status.FAIL], other: [Status.PASS]}
    runs: list[tuple[tuple[str, ...], str]] = []

    def suite(tests: Sequence[str], append: str) -> tuple[CaseVerdict, ...]:
        runs.append((tuple(tests), append))
        statuses = [said[test].pop(0) if append else Status.PASS for test in tests]
        return tuple(
            verdict(s, "double-accept", test=t) for s, t in zip(statuses, tests, strict=True)
        )

    table = [{"tests": [TEST, other], "signals": ["double-accept"]}]
    (result,) = run_catalogue([entry(catch=table)], V612, suite, clean=False)
    assert result.status is Status.PASS
    assert runs == [((TEST, other), f"{PARAMETER}=a-bug"), ((TEST,), f"{PARAMETER}=a-bug")]


def test_a_bug_without_a_switch_on_this_kernel_is_left_out() -> None:
    assert run_catalogue([entry(since="7.3")], V612, FakeSuite({})) == ()


def test_a_bug_known_as_uncaught_is_a_skip_with_its_reason() -> None:
    (result,) = run_catalogue([entry(catch=[], uncaught="tried all")], V612, FakeSuite({}))
    assert result.status is Status.SKIP
    assert "tried all" in summary([result], "6.12.107")


def test_tests_that_did_not_run_are_not_taken_for_passes() -> None:
    with pytest.raises(HostError, match="did not run"):
        run_catalogue([entry()], V612, lambda tests, append: ())


# The verb.


def test_list_names_every_bug() -> None:
    found = json.loads(CliRunner().invoke(app, ["catalogue", "list", "--json"]).output)
    assert {bug["id"] for bug in found} == {bug.id for bug in load_entries()}


def test_show_prints_the_commands_of_one_bug() -> None:
    result = CliRunner().invoke(app, ["catalogue", "show", "kcore", "--kernel=debian:7.3"])
    assert result.exit_code == 0
    assert "--append=unaccepted_bug=kcore" in result.output
    assert "/proc/kcore" in result.output
