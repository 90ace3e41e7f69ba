# SPDX-License-Identifier: MIT
"""The HTML report in a real headless Chromium: drawn, quiet, usable by keys and on a telephone."""

from pathlib import Path

from harness.record.view import RunView
from tests.support.browser import browse, needs_browser
from tests.support.sample_runs import make_measured_run
from tests.unit.test_report_html import hostile_run, written


@needs_browser
def test_all_plots_are_drawn_and_nothing_complains(tmp_path: Path) -> None:
    views = [RunView.load(make_measured_run(tmp_path / "r").path), hostile_run(tmp_path / "r")]
    with browse(tmp_path / "profile", written(tmp_path / "r.html", *views)) as browser:
        count = browser.script("return document.querySelectorAll('[data-plot]').length")
        assert count == 12
        browser.script("document.querySelectorAll('[data-plot]').forEach(b => b.scrollIntoView())")
        browser.script("dispatchEvent(new Event('beforeprint'))")
        browser.wait(f"document.querySelectorAll('[data-drawn]').length === {count}")
        assert browser.script("return window.pwned") is None
        assert browser.complaints() == []


@needs_browser
def test_what_is_printed_has_every_plot(tmp_path: Path) -> None:
    page = written(tmp_path / "r.html", RunView.load(make_measured_run(tmp_path / "r").path))
    with browse(tmp_path / "profile", page) as browser:
        browser.wait("performance.getEntriesByName('library').length")
        # In one step: the browser prints what is there when the handlers have returned.
        plots, drawn = browser.script(
            "dispatchEvent(new Event('beforeprint'));"
            "return ['.plot', '.plot[data-drawn] .main-svg .trace']"
            ".map(found => new Set([...document.querySelectorAll(found)]"
            ".map(part => part.closest('.plot'))).size)"
        )
        assert drawn == plots > 2


@needs_browser
def test_keys_zoom_theme_turns_and_a_telephone_needs_no_scrolling(tmp_path: Path) -> None:
    page = written(tmp_path / "r.html", RunView.load(make_measured_run(tmp_path / "r").path))
    with browse(tmp_path / "profile", page, width=390, scheme="dark") as browser:
        browser.script("document.querySelector('.plot').scrollIntoView()")
        browser.wait("document.querySelector('.plot').dataset.drawn")
        assert browser.script("return document.documentElement.scrollWidth <= innerWidth")
        ground = "getComputedStyle(document.body).backgroundColor"
        dark = browser.script(f"return {ground}")
        browser.script("document.getElementById('theme').click()")
        assert browser.script(f"return {ground}") != dark
        span = "(() => { const r = document.querySelector('.plot')._fullLayout.xaxis.range;"
        span += " return r[1] - r[0]; })()"
        before = browser.script(f"return {span}")
        plot = browser.driver.find_element("css selector", ".plot")
        plot.send_keys("+")
        browser.wait(f"Math.abs({span} - {before} * 0.6) < 0.01")
        plot.send_keys("0")
        browser.wait(f"Math.abs({span} - {before}) < 0.01")
        assert browser.script("return document.activeElement === document.querySelector('.plot')")


@needs_browser
def test_a_million_events_are_a_small_page_and_soon_there(tmp_path: Path) -> None:
    view = RunView.load(make_measured_run(tmp_path / "r", 1_000_000).path)
    page = written(tmp_path / "r.html", view)
    assert page.stat().st_size <= 5_000_000
    assert "of 1,000,000 accept calls the shortest and the longest" in page.read_text()
    with browse(tmp_path / "profile", page) as browser:
        browser.script("document.querySelector('.plot').scrollIntoView()")
        browser.wait("document.querySelector('.plot').dataset.drawn")
        assert browser.main_thread_s() <= 2
