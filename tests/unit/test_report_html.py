# SPDX-License-Identifier: MIT
"""The HTML report: what is wrong comes first, and guests' words stay words.

tests/browser/ looks at it in a real browser.
"""

import gzip
import hashlib
import importlib.resources
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.base.status import Status, UsageError
from harness.cli import app as cli
from harness.compare.history import series_of
from harness.compare.index import index_of
from harness.record.comparison import Comparison, Criteria, Interval, Verdict
from harness.record.console import ConsoleScanner
from harness.record.night import CellKind, CellResult, Flake, NightResults, load_night
from harness.record.rundir import write_json
from harness.record.series import CommitResult, SeriesResults, load_series
from harness.record.view import RunView
from harness.report.html.content import night_page, runs_page, series_page
from harness.report.html.figure import quantiles
from harness.report.html.render import LIBRARY, render
from tests.support.sample_runs import make_measured_run, make_run

HOSTILE = b'"><script>window.pwned=1</script><img src=x onerror="window.pwned=2"> \x1b[2J \xff\xfe'
OOPS = (
    b"[   61.000001] before it \x1b]0;title\x07\r\n"
    b"[   61.123456] BUG: unable to handle page fault for address: ffff8880bfe00000 " + HOSTILE +
    b"\r\n[   61.123459] RIP: 0010:load_unaligned_zeropad+0x1a/0x40\r\n"
    b"[   61.123462]  ? show_regs+0x12/0x20\r\n[   61.123463]  dentry_string_cmp+0x4f/0x90\r\n"
    b"[   61.123467] ---[ end trace 0000000000000000 ]---\r\n"
)  # fmt: skip


def hostile_run(root: Path, console: bytes = OOPS) -> RunView:
    scanner = ConsoleScanner()
    scanner.feed(console, 3 * 10**9)
    scanner.close(0)
    kernel = "6.12.118-cvm-</script><script>window.pwned=3</script>"
    run = make_measured_run(
        root,
        2000,
        console=console,
        splats=scanner.splats,
        kernel=kernel,
        source_lines={"dentry_string_cmp+0x4f/0x90": "fs/dcache.c:210"},
    )
    return RunView.load(run.path)


def written(path: Path, *views: RunView) -> Path:
    path.write_text(render(runs_page(views)), encoding="utf-8")
    return path


class Elements(HTMLParser):
    """The elements of a page, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_what_a_guest_said_is_text_in_the_page(tmp_path: Path) -> None:
    page = render(runs_page([hostile_run(tmp_path)]))
    elements = Elements(page)
    scripts = [attributes for tag, attributes in elements.tags if tag == "script"]
    assert len(scripts) == 3
    assert not [tag for tag, _ in elements.tags if tag == "img"]
    assert not [a for _, attributes in elements.tags for a in attributes if a.startswith("on")]
    assert "window.pwned=1" in "".join(elements.text)
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f]", page)


def test_nothing_is_fetched(tmp_path: Path) -> None:
    page = render(runs_page([hostile_run(tmp_path)]))
    for tag, attributes in Elements(page).tags:
        assert not {"src", "srcset", "poster", "data", "action"} & attributes.keys(), tag
        assert (attributes.get("href") or "#").startswith("#")
    assert "default-src 'none'" in page


def test_a_failure_is_first_with_its_stack_and_the_way_to_repeat_it(tmp_path: Path) -> None:
    good, bad = RunView.load(make_measured_run(tmp_path).path), hostile_run(tmp_path)
    page = runs_page([good, bad])
    assert page.verdict == "FAIL"
    assert [item.anchor for item in page.attention] == [bad.id]
    assert page.attention[0].rerun
    assert [section.view.id for section in page.sections] == [bad.id, good.id]
    (splat,) = page.sections[0].splats
    assert splat.frames == (
        ("load_unaligned_zeropad+0x1a/0x40", ""),
        ("dentry_string_cmp+0x4f/0x90", "fs/dcache.c:210"),
    )
    assert any("before it" in line for line in splat.before)
    text = render(page)
    assert text.index("unable to handle page fault") < text.index("</section>")


def test_two_runs_are_compared_by_their_inputs_and_latencies(tmp_path: Path) -> None:
    a = RunView.load(make_measured_run(tmp_path, 3000, kernel="6.12.1-a").path)
    b = RunView.load(make_measured_run(tmp_path, 3000, kernel="6.12.2-b", slower=1.5).path)
    page = runs_page([a, b])
    assert ("kernel.release", "6.12.1-a", "6.12.2-b") in page.environment
    tail = page.overlay[0]
    medians = [float(row[1]) for row in tail.rows]
    assert medians[1] / medians[0] == pytest.approx(1.5, rel=0.05)


def test_a_run_that_died_before_it_recorded_shows_the_splat_of_its_console(tmp_path: Path) -> None:
    run = make_run(tmp_path, finished=False)
    (run.path / "console.log").write_bytes(OOPS)
    run.finish(Status.FAIL, "the guest panicked")
    (splat,) = runs_page([RunView.load(run.path)]).sections[0].splats
    assert splat.kind == "oops"
    assert splat.frames[0] == ("load_unaligned_zeropad+0x1a/0x40", "")


def test_of_two_command_lines_only_the_difference_is_shown(tmp_path: Path) -> None:
    a, b = make_measured_run(tmp_path, 400), make_measured_run(tmp_path, 400, seed=2)
    a.update(command_line="qemu \\\n -m 2G \\\n -smp 2")
    b.update(command_line="qemu \\\n -m 2G \\\n -smp 4")
    page = runs_page([RunView.load(a.path), RunView.load(b.path)])
    assert page.environment == (("command_line", "2", "4"),)


def test_an_unfinished_or_broken_run_still_gives_a_page(tmp_path: Path) -> None:
    run = make_run(tmp_path, finished=False)
    page = runs_page([RunView.load(run.path)])
    assert page.verdict == "MISS"
    assert "not finished" in page.sections[0].problem
    broken = make_measured_run(tmp_path)
    (broken.path / "events.parquet").write_bytes(b"PAR1 not really")
    page = runs_page([RunView.load(broken.path)])
    assert "events" in page.sections[0].problem
    assert "No plots" in render(page)


def test_a_hundred_megabytes_of_console_make_no_large_page(tmp_path: Path) -> None:
    run = make_measured_run(tmp_path, 500, console=b"x")
    with (run.path / "console.log").open("wb") as file:
        for _ in range(100):
            file.write(b"<b>\x1b[31m\xff" * (1 << 17))  # not one line's end in a hundred MB
        file.write(b"\n" + OOPS)
    splat = {"kind": "oops", "line": "BUG: unable to handle", "context": [], "host_ns": 1}
    run.update(splats=[splat])
    page = runs_page([RunView.load(run.path)])
    assert page.sections[0].splats[0].frames
    assert all(len(line) <= 1001 for line in page.sections[0].tail)
    assert len(render(page)) < 2_000_000


def test_quantiles_are_values_of_the_distribution() -> None:
    values = np.random.default_rng(1).lognormal(10, 1, 100_000)
    q = quantiles(values)
    assert len(q.value) <= 800
    assert set(q.value) <= set(values)
    assert q.value[-1] == values.max()
    for percent in (50, 99, 99.9):
        at = np.searchsorted(q.share, percent / 100)
        assert q.value[at] == np.sort(values)[round(q.share[at] * len(values)) - 1]
        assert q.share[at] == pytest.approx(percent / 100, abs=0.003)
    assert quantiles(np.array([3.0])).value.tolist() == [3.0]


def test_the_embedded_library_is_the_published_one() -> None:
    packed = importlib.resources.files("harness.report.html").joinpath("vendor", LIBRARY)
    digest = hashlib.sha256(gzip.decompress(packed.read_bytes())).hexdigest()
    assert digest == "99784e3abfb07b142a15e521a439e6d9addceadb3f79553fd24c72774f0649ba"


def comparison(metric: str, effect: float) -> Comparison:
    """Runs that differ by `effect`, with a narrow interval."""
    interval = Interval(1 + effect - 0.004, 1 + effect + 0.004, 0.95, "Welch's t")
    verdict = Verdict.REGRESSED if effect else Verdict.EQUIVALENT
    return Comparison(
        *(metric, verdict, 5, 5, 1 + effect, interval, 0.001, 0.002, 1 + effect, None, 0.01, 0.006),
        *({0.05: 3}, Criteria()),
    )


def night(root: Path) -> Path:
    """A night of nine cells: one failure, one regression of 2 %, one flake, the rest good."""

    def cell(key: str, status: Status, kind: CellKind = CellKind.SUITE, **more: Any) -> CellResult:
        command = f"cvm-harness reproduce {key}"
        arms = (key, kind, "patched", "base", "default", {"memory": "2G"}, "quick", status)
        return CellResult(*arms, more.pop("cause", ""), True, 12.5, command, **more)

    failing = make_measured_run(root / "cells" / "fail", 500, console=OOPS)
    failing.finish(Status.FAIL, "console is clean: 1 splats")
    values = {"accept.total_ns": {"base": (1.0, 1.01, 0.99), "patched": (1.02, 1.03, 1.01)}}
    cells = [cell(f"good-{number}", Status.PASS) for number in range(6)]
    cells += [
        cell("slow", Status.FAIL, CellKind.MEASURE, cause="accept.total_ns regressed by 2 %",
             comparisons=(comparison("accept.total_ns", 0.02),), values=values),
        cell("broken", Status.FAIL, cause="test_x failed", failed=("test_x: <b>oops</b>",),
             places=("cells/fail", "../../outside")),
        cell("same", Status.PASS, CellKind.MEASURE, comparisons=(comparison("accept.total_ns", 0),),
             flakes=(Flake("test_y", (Status.FAIL, Status.PASS), "now and then"),)),
    ]  # fmt: skip
    times = ("2026-03-01T02:00:00+00:00", "2026-03-01T05:00:00+00:00")
    cause = "broken: test_x failed"
    root.mkdir(exist_ok=True)
    results = NightResults(
        *(1, "mm-unstable", *times, True, Status.FAIL, cause, {"FAIL": 2}, tuple(cells), 0)
    )
    write_json(root / "night.json", results)
    assert load_night(root) == results
    return root


def test_the_failure_and_the_slow_down_are_the_first_two_things_of_a_night(tmp_path: Path) -> None:
    page = night_page(night(tmp_path))
    first, second, *others = page.attention
    assert (first.status, first.title) == ("FAIL", "broken")
    assert (second.status, second.title) == ("regressed", "slow")
    assert second.lines == ("accept.total_ns: regressed, +2.00%",)
    assert [item.status for item in others] == ["flaky"]
    assert len(page.cells) == 9
    assert len(page.sections) == 1
    text = render(page)
    assert text.index("broken</h3>") < text.index("slow</h3>") < text.index('id="costs"')


def series(root: Path) -> Path:
    """A series of three patches on a base; the second costs 2 %, the third does not build."""

    def row(title: str, status: Status, effect: float | None = None, **more: Any) -> CommitResult:
        change = None if effect is None else comparison("cost.workload", effect)
        facts = {"tests": "60 PASS", "cost": 4e8 * (1 + (effect or 0)), "cause": "", **more}
        return CommitResult(title, title, status, change=change, total=change, **facts)

    rows = (
        row("base", Status.PASS),
        row("aa <b>first</b>", Status.PASS, 0.0, warnings=("mm/x.c: warning: unused",)),
        row("bb second", Status.FAIL, 0.02, cause="cost.workload regressed by 2 %"),
        row("cc third", Status.FAIL, cause="error: no such member", cost=None),
    )
    root.mkdir()
    check = {"cost": {"metric": "cost.workload"}}
    results = SeriesResults("git:linux@a..b", check, rows)
    write_json(root / "series.json", results)
    assert load_series(root) == results
    return root


def test_a_series_shows_which_commit_is_bad_and_what_each_costs(tmp_path: Path) -> None:
    page = series_page(series(tmp_path / "s"))
    assert page.verdict == "FAIL"
    assert [(item.status, item.title) for item in page.attention] == [
        ("regressed", "bb second"),
        ("FAIL", "cc third"),
    ]
    assert [figure.id for figure in page.figures] == ["effects", "cost-per-commit"]
    drawn = page.figures[1].figure.to_dict()["data"][0]
    assert list(drawn["x"]) == ["base", "aa &lt;b&gt;first&lt;/b&gt;", "bb second"]
    text = render(page)
    assert "aa &lt;b&gt;first" in text
    assert "<b>first" not in text
    assert text.index("bb second</h3>") < text.index('id="commits"')


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ('{"rows": []}', "series is missing"),
        ('{"series": "x", "check": {}, "rows": [{"status": "GOOD"}]}', "rows 1: name is missing"),
        ('{"series": "x", "check": {}, "rows": [], "extra": 1}', "unknown key extra"),
        ("[" * 9, "is not JSON"),
    ],
)
def test_a_series_that_cannot_be_read_is_refused(tmp_path: Path, content: str, told: str) -> None:
    (tmp_path / "series.json").write_text(content)
    with pytest.raises(UsageError, match=rf"series\.json.*{told}") as caught:
        load_series(tmp_path)
    assert f"--directory={tmp_path}" in caught.value.hint


def test_a_night_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "night.json").write_text('{"status": "PASS"}')
    with pytest.raises(UsageError, match=r"night\.json: schema is missing") as caught:
        load_night(tmp_path)
    assert f"nightly --resume {tmp_path}" in caught.value.hint


def test_the_verb_writes_a_night_and_the_newest_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for day in range(8):
        make_run(tmp_path / "runs", day=day, accept_ns=1e6 + day)

    def call(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["cvm-harness", "report", *arguments])
        with pytest.raises(SystemExit) as end:
            cli.main()
        return int(end.value.code or 0)

    out, runs = tmp_path / "r.html", f"--runs={tmp_path / 'runs'}"
    assert call(str(night(tmp_path / "night")), runs, "--trend=accept.p99_ns", "-o", str(out)) == 0
    assert "accept.p99_ns over time" in out.read_text()
    assert call(str(series(tmp_path / "series")), runs, "-o", str(out)) == 0
    assert "cost.workload after each commit" in out.read_text()
    assert call(runs, "-o", str(out)) == 0
    assert "20260308T" in out.read_text()
    assert call(str(tmp_path / "night"), str(tmp_path / "night"), "-o", str(out)) == 2
    assert call("/nowhere") == 2
    assert "FAIL: " in capsys.readouterr().out


def test_trends_show_where_the_level_changed(tmp_path: Path) -> None:
    for day in range(20):
        make_run(tmp_path, day=day, accept_ns=1e6 * (1.05 if day >= 12 else 1) + day % 3)
    index = index_of(tmp_path)
    series = series_of("accept.p99_ns", index.history("accept.p99_ns"))
    newest = RunView.load(tmp_path / index.runs()[-1].id)
    (trend,) = runs_page([newest], series).trends
    assert len(trend.rows) == 1
    assert trend.rows[0][0] == series[0].points[12].row.id
