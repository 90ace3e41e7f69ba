# SPDX-License-Identifier: MIT
"""Bad input gets one clear error with the next step and the right exit code; nothing is started."""

import json
import re
import resource
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from harness.base.status import UsageError
from harness.base.store import Store
from harness.cli import app as cli
from harness.cli.verbs import VERBS
from harness.jobs.catalogue.entry import load_entries

Captured = pytest.CaptureFixture[str]


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["cvm-harness", *arguments])
    with pytest.raises(SystemExit) as end:
        cli.main()
    return int(end.value.code or 0)


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["run", "touch", "--target=sgx"], 2, "unknown target 'sgx'"),
        (["run", "touch", "--accept=never"], 2, "unknown accept mode 'never'"),
        (["run", "touch", "--memory=much"], 2, "--memory: not a size: 'much'"),
        (["run", "touch", "--memory=1025M"], 2, "multiple of 2 MiB"),
        (["run", "touch", "--memory=2T"], 2, "is outside"),
        (["run", "touch", "--vcpus=0"], 2, "0 vCPUs"),
        (["run", "touch", "--cost=cheap"], 2, "unknown cost model 'cheap'"),
        (["run", "touch", "--page=1k"], 2, "unknown page '1k'"),
        (["run", "dance"], 2, "unknown workload 'dance'"),
        (["run", "touch", "--clock=icount", "--accel=kvm"], 2, "icount clock needs TCG"),
        (["run", "touch", "--no-such-option"], 2, "No such option"),
        (["run", "touch", "--target=snp", "--accel=kvm"], 69, "cannot run SEV-SNP guests"),
        (["run", "touch", "--target=snp", "--accel=kvm", "--memory=2G"], 2, "nothing to accept"),
        (["run", "touch", "--target=tdx", "--accel=kvm", "--cost=tdx"], 2, "has no cost model"),
        (["run", "touch", "--target=snp", "--snp-policy=0"], 2, "bit 17 must be one"),
        (["run", "touch", "--target=snp", "--snp-policy=many"], 2, "not a number"),
        (["run", "touch", "--firmware=/nowhere.fd"], 2, "--firmware: no such file"),
        (["run", "touch", "--target=emulated", f"--disk={__file__}"], 2, "has its own kernel"),
        (["doctor", "--target=sgx"], 2, "unknown target"),
        (["doctor", "--host=/nowhere"], 2, "is not a recorded host"),
        (["build", "--kernel=/nowhere/at/all"], 2, "/nowhere/at/all"),
    ],
)
def test_bad_input_is_one_clear_error(
    monkeypatch: pytest.MonkeyPatch,
    capsys: Captured,
    tmp_path: Path,
    arguments: list[str],
    code: int,
    says: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CVM_HARNESS_CACHE", str(tmp_path / "cache"))
    assert call(monkeypatch, *arguments) == code
    errors = capsys.readouterr().err
    assert says in errors.replace("\n", " ")
    assert "Traceback" not in errors
    assert not (tmp_path / "runs").exists()


def test_a_directory_that_is_no_kernel_tree_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: Captured, tmp_path: Path
) -> None:
    monkeypatch.setenv("CVM_HARNESS_CACHE", str(tmp_path / "cache"))
    tree = tmp_path / "holiday-photos"
    tree.mkdir()
    assert call(monkeypatch, "build", f"--kernel={tree}") == 2
    assert "holiday-photos" in capsys.readouterr().err


def test_no_qemu_is_a_miss_that_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: Captured, tmp_path: Path
) -> None:
    monkeypatch.setenv("CVM_HARNESS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("CVM_HARNESS_QEMU", str(tmp_path / "no-qemu"))
    assert call(monkeypatch, "doctor", "--json") == 69
    report = json.loads(capsys.readouterr().out)
    finding = next(f for f in report["findings"] if f["name"] == "QEMU")
    assert finding["status"] == "MISS"
    assert "no-qemu" in finding["evidence"]
    assert "apt install qemu-system-x86" in finding["hint"]


def test_no_qemu_is_said_before_a_kernel_is_built(
    monkeypatch: pytest.MonkeyPatch, capsys: Captured, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CVM_HARNESS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("CVM_HARNESS_QEMU", str(tmp_path / "no-qemu"))
    assert call(monkeypatch, "run", "touch") == 69
    errors = capsys.readouterr().err
    assert "no QEMU" in errors
    assert "apt install qemu-system-x86" in errors.replace("\n", " ")
    assert not (tmp_path / "cache").exists()


def test_more_memory_than_can_be_mapped_is_said_before_a_kernel_is_built(
    monkeypatch: pytest.MonkeyPatch, capsys: Captured, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CVM_HARNESS_CACHE", str(tmp_path / "cache"))
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (64 << 30, hard))
    try:
        assert call(monkeypatch, "run", "touch", "--memory=100G") == 69
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    errors = capsys.readouterr().err.replace("\n", " ")
    assert "a guest of 100 GiB cannot be mapped" in errors
    assert "choose a smaller --memory" in errors


def test_no_compiler_is_a_miss_that_names_the_package(
    monkeypatch: pytest.MonkeyPatch, capsys: Captured, tmp_path: Path
) -> None:
    monkeypatch.setenv("CVM_HARNESS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert call(monkeypatch, "doctor") == 69
    assert re.search(r"apt-get install .*\bgcc\b", capsys.readouterr().out)


def test_gc_removes_down_to_what_may_stay(
    monkeypatch: pytest.MonkeyPatch, capsys: Captured, tmp_path: Path
) -> None:
    monkeypatch.setenv("CVM_HARNESS_CACHE", str(tmp_path / "cache"))
    store = Store()

    def build(directory: Path) -> None:
        (directory / "data").write_bytes(b"x" * (1 << 20))

    store.fetch("kernel", "a" * 64, build)
    assert call(monkeypatch, "gc", "--dry-run") == 0
    assert "kernel aaaaaaaaaaaa 1 MiB" in capsys.readouterr().out
    assert len(store.entries()) == 1
    assert call(monkeypatch, "gc", "--keep=1K") == 0
    assert store.entries() == []


def test_help_names_every_verb_and_the_exit_codes(
    monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    assert call(monkeypatch, "--help") == 0
    text = capsys.readouterr().out
    for verb in ("quickstart", "run", "boot", "build", "doctor", "gc", "Exit codes"):
        assert verb in text


def test_a_verb_does_not_pay_for_what_others_import() -> None:
    code = "import sys, harness.cli.app; print({'scipy', 'pyarrow', 'paramiko'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def _groups() -> dict[str, click.Group]:
    """Every group of verbs; "" is the command line itself."""
    context = click.Context(cli.app)
    verbs = {name: cli.app.get_command(context, name) for name in cli.app.list_commands(context)}
    return {"": cli.app} | {n: verb for n, verb in verbs.items() if isinstance(verb, click.Group)}


@pytest.mark.parametrize("name", _groups())
def test_what_is_said_of_a_verb_in_a_list_is_never_cut(name: str) -> None:
    words = [name, "--help"] if name else ["--help"]
    output = CliRunner().invoke(cli.app, words, terminal_width=80).output
    _, _, listed = output.partition("Commands:\n")
    listed, _, _ = listed.partition("\n\n")
    commands = _groups()[name].list_commands(click.Context(cli.app))
    assert len(re.findall(r"^  \S+  +\S", listed, re.MULTILINE)) == len(commands)
    assert not re.search(r"\.\.\.$", listed, re.MULTILINE)
    assert max(map(len, listed.splitlines())) <= 80
    if not name:
        assert len(listed.splitlines()) == len(commands) > 20  # a line for each


def test_every_verb_is_found_under_its_own_name_and_there_are_no_others() -> None:
    context = click.Context(cli.app)
    for name, (_, said) in VERBS.items():
        command = cli.app.get_command(context, name)
        assert command
        assert command.name == name
        assert said.endswith(".")
    assert cli.app.get_command(context, "no-such-verb") is None
    assert cli.app.commands == {}  # what is registered elsewhere would be in no list


def test_a_bug_of_the_catalogue_is_reproduced_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []

    def guarded(argv: list[str], **_: object) -> int:
        asked.append(argv)
        return 0

    monkeypatch.setattr("harness.cli.reproduce.run_guarded", guarded)
    bug = load_entries()[0].id
    assert CliRunner().invoke(cli.app, ["reproduce", bug, "--runs=R"]).exit_code == 0
    assert asked[0][-4:] == ["catalogue", "run", bug, "--runs=R"]
    result = CliRunner().invoke(cli.app, ["reproduce", bug + "x"])
    assert isinstance(result.exception, UsageError)
    assert result.exception.hint == f"did you mean {bug}?"
    assert len(asked) == 1
