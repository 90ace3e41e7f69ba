# SPDX-License-Identifier: MIT
"""What the pages say can be typed, works; what they link to, exists.

Blocks marked "executed" are run here, those marked "guest" by tests/guest/test_docs_guests.py.
"""

import ast
import re
import sys
import tomllib
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from harness.analysis.invariants import INVARIANTS, Invariant
from harness.cli import app as cli
from harness.record.console import Kind
from harness.report.reference import PARTS, renewed
from tests.support.pages import PAGES, ROOT, blocks
from tests.support.sample_runs import make_measured_run

_LINK = re.compile(r"\]\((?!https?:|mailto:)([^)#\s]+)(?:#[^)]*)?\)")
COMMANDS = sorted({(b.page, tuple(words)) for b in blocks() for words in b.commands()})
EXECUTED = blocks(mark="executed")


def test_there_is_something_to_check() -> None:
    assert len(COMMANDS) >= 30
    assert len(EXECUTED) >= 5
    assert blocks(mark="guest")


@pytest.mark.parametrize(("page", "words"), COMMANDS, ids=lambda value: " ".join(value)[:60])
def test_every_command_has_a_verb_and_options_that_exist(page: str, words: tuple[str, ...]) -> None:
    at = words.index("--") if "--" in words else len(words)
    result = CliRunner().invoke(cli.app, [*words[:at], "--help"])
    assert result.exit_code == 0, result.output
    assert result.output.startswith("Usage: ")


@pytest.mark.parametrize("block", EXECUTED, ids=lambda block: block.page)
def test_executed_commands_succeed(
    block: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, name in enumerate("AB"):
        run = make_measured_run(tmp_path / "runs", 400, seed=number)
        run.path.rename(tmp_path / "runs" / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CVM_HARNESS_CACHE", str(tmp_path / "cache"))
    ran = 0
    for words in block.commands():  # type: ignore[attr-defined]
        monkeypatch.setattr(sys, "argv", ["cvm-harness", *words])
        with pytest.raises(SystemExit) as end:
            cli.main()
        assert not end.value.code, words
        ran += 1
    assert ran


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in _LINK.findall(page.read_text()):
        assert (page.parent / target).exists(), target


def test_the_made_parts_of_the_pages_are_what_the_code_says() -> None:
    pages = [page.read_text() for page in PAGES]
    assert [page for page in pages if renewed(page) != page] == []
    assert [name for name, part in PARTS.items() if not any(part() in page for page in pages)] == []


def test_the_table_of_rooms_is_the_order_that_imports_keep() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    (contract,) = (c for c in project["tool"]["importlinter"]["contracts"] if c["type"] == "layers")
    page = (ROOT / "docs" / "architecture.md").read_text()
    assert re.findall(r"^\| `harness/(\w+)/` ", page, re.M) == contract["layers"][::-1]


@pytest.mark.parametrize("row", INVARIANTS, ids=lambda row: row.name)
def test_the_signals_of_every_invariant_are_explained(row: Invariant) -> None:
    page = (ROOT / "docs" / "suite.md").read_text()
    said = set(re.findall(r"`([a-z-]+)`", page))
    if set(row.signals) != set(Kind):  # the page has some kinds of report and an ellipsis
        assert said.issuperset(row.signals)


_FILE = re.compile(r"[a-z-]+\.(txt|log|jsonl?|parquet|sh|raw|img|bin)")
NOT_OF_A_RUN = {"manifest.json", "state.bin", "night.json", "series.json", "journal.jsonl"}
"""Of a snapshot (docs/snapshots.md), a night, a checked series."""


def files_that_a_run_can_write() -> set[str]:
    """Every file name that is spelled out in the rooms that hold, read or analyse a guest."""
    rooms = ("record", "analysis", "collect", "workloads", "run", "guest", "targets")
    words = {
        node.value
        for room in rooms
        for module in (ROOT / "harness" / room).rglob("*.py")
        for node in ast.walk(ast.parse(module.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    return {word for word in words if _FILE.fullmatch(word)} - NOT_OF_A_RUN


def test_every_file_of_a_run_directory_is_documented() -> None:
    page = (ROOT / "docs" / "run-directory.md").read_text()
    written = files_that_a_run_can_write()
    assert written >= {"run.json", "events.parquet", "console.log"}
    assert written <= set(re.findall(r"`([a-z.-]+)`", page))


def test_every_verb_is_explained_somewhere() -> None:
    text = "\n".join(page.read_text() for page in PAGES)
    verbs = cli.app.list_commands(click.Context(cli.app))
    assert set(verbs) > {"run", "kernel", "bench"}
    assert [name for name in verbs if f"cvm-harness {name}" not in text] == []


_NAMED = re.compile(r"cvm-harness +(?P<verb>[a-z][a-z-]*)(?: +(?P<sub>[a-z][a-z-]*))?")
_NO_VERBS = {"developers"}
"""Words that follow the project's name where it is no command."""


def _texts(file: Path) -> list[str]:
    """A page as a whole, or every string and docstring of a module."""
    if file.suffix != ".py":
        return [file.read_text()]
    nodes = ast.walk(ast.parse(file.read_text()))
    return [n.value for n in nodes if isinstance(n, ast.Constant) and isinstance(n.value, str)]


def test_every_verb_that_a_page_or_a_message_names_exists() -> None:
    files = [*PAGES, *(ROOT / "harness").rglob("*.py"), *(ROOT / "scripts").iterdir()]
    files = [file for file in files if file.is_file()]
    context = click.Context(cli.app)
    named, wrong = set(), []
    for file in files:
        for match in (m for text in _texts(file) for m in _NAMED.finditer(text)):
            command = cli.app.get_command(context, match["verb"])
            named.add(match["verb"])
            if isinstance(command, click.Group) and match["sub"]:
                command = command.get_command(context, match["sub"])
            if command is None and match["verb"] not in _NO_VERBS:
                wrong.append(f"{file.relative_to(ROOT)}: {match[0]}")
    assert {"gc", "doctor", "run", "kernel"} <= named
    assert wrong == []


_PATH = re.compile(
    r"(?<![\w./-])(?:harness|tests|scripts|docs|kernel-configs|guest-images)/[\w./-]*\w\.(?:py|toml|md|c|h)\b"
)


def test_every_file_of_the_project_that_a_page_or_a_message_names_exists() -> None:
    places = [PAGES, (ROOT / "harness").rglob("*.py"), (ROOT / "guest-images").rglob("*.[ch]")]
    files = [*(file for place in places for file in place), ROOT / "CONTRIBUTING.md"]
    named = {(file, path) for file in files for path in _PATH.findall(file.read_text())}
    assert len(named) > 50
    wrong = sorted(f"{file.name}: {path}" for file, path in named if not (ROOT / path).exists())
    assert wrong == []
