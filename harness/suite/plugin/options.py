# SPDX-License-Identifier: MIT
"""The plugin's command-line options, and the guest that they describe. They have no defaults there,
so that it shows whether any was given; what is not given is `DEFAULTS`'."""

import argparse
import shlex
from collections.abc import Iterator
from typing import Any

import pytest

from harness.base.guest_options import given_options, guest_options, spec_arguments
from harness.base.options import DEFAULT_KERNEL, FLAG, Door, Option, choice
from harness.base.spec import GuestSpec, SnapshotMode

ACTIVE = "cvm_harness"
"""Name of the ini option that makes a project's tests the harness's."""
TAKEN = pytest.StashKey[frozenset[str]]()
"""Names of options that other plugins have."""
_SPEC = pytest.StashKey[tuple[GuestSpec, str]]()

_OWN: tuple[tuple[str, dict[str, Any], str], ...] = (
    (
        "--kernel",
        {},
        "debian:6.12, debian-binary:6.12, a kernel tree, git:REPO@REF, or a bzImage "
        f"({DEFAULT_KERNEL})",
    ),
    (
        "--patch",
        {"action": "append", "metavar": "FILE"},
        "a patch or mbox to apply to the kernel as well; may be repeated",
    ),
    (
        "--fragment",
        {"action": "append"},
        "another kernel config fragment: debug, or a file; may be repeated",
    ),
    (
        "--set",
        {"action": "append", "metavar": "SYMBOL=VALUE"},
        "a kernel config symbol on top of the fragments; may be repeated",
    ),
    (
        "--tier",
        {},
        "quick (about a minute), full, or soak; each includes the one before (quick)",
    ),
    ("--seed", {"metavar": "N"}, "of random tests (a new one each time)"),
    ("--sequence", {"metavar": "FILE"}, "run a random test's reproducer again (docs/suite.md)"),
    ("--verdicts", {"metavar": "FILE"}, "write each test's verdict to FILE, one JSON object each"),
    (
        "--snapshot",
        {},
        "auto: guests start from a saved one where that is possible; off: each is booted (auto)",
    ),
    ("--runs", {"metavar": "DIRECTORY"}, "where run directories go (runs)"),
)
"""The options that are not the guest's."""
DEFAULTS: dict[str, Any] = {
    "--kernel": DEFAULT_KERNEL,
    "--patch": (),
    "--fragment": (),
    "--set": (),
    "--tier": "quick",
    "--snapshot": "auto",
    "--runs": "runs",
}


def add_options(parser: pytest.Parser) -> frozenset[str]:
    """Add each option under its own name where that is free, and always as `--cvm-NAME`. What comes
    back are the names that others have."""
    taken = frozenset(_taken(parser))
    group = parser.getgroup("cvm-harness", "confidential-VM guests")
    for name, rest, words in (*map(_guest_option, guest_options(Door.PYTEST)), *_OWN):
        names = [_own(name)] if name in taken else [name, _own(name)]
        rest = {"dest": _dest(name), **rest, "default": None, "help": words.replace("%", "%%")}
        group.addoption(*names, **rest)
    return taken


def _guest_option(option: Option) -> tuple[str, dict[str, Any], str]:
    """As a row of `_OWN`. A flag has only the spelling that changes it: pytest itself has --trace
    and --strict."""
    if option.row.kind is FLAG:
        name = option.negative if option.default else option.flag
        rest: dict[str, Any] = {"action": "store_const", "const": not option.default}
    else:
        name, rest = option.flag, {"metavar": option.row.kind.metavar}
    return name, {**rest, "dest": _dest(option.flag)}, option.help_with()


def _taken(parser: pytest.Parser) -> Iterator[str]:
    # pytest has no public list of what others have added (8.x and 9.x keep it in these).
    for group in (*parser._groups, parser._anonymous):
        for option in group.options:
            yield from option.names()


def _own(name: str) -> str:
    return "--cvm-" + name.removeprefix("--")


def _dest(name: str) -> str:
    return "cvm_" + name.removeprefix("--").replace("-", "_")


def option(config: pytest.Config, name: str) -> Any:
    """What was given for our option called `name`, else its default; None for the guest's."""
    given = config.getoption(_dest(name), default=None)
    return DEFAULTS.get(name) if given is None else given


def given_by(options: argparse.Namespace) -> dict[str, object]:
    """The guest options among the parsed `options`, by name."""
    return given_options(Door.PYTEST, lambda option: getattr(options, _dest(option.flag), None))


def was_given(config: pytest.Config) -> bool:
    own = (config.getoption(_dest(name), default=None) for name, _, _ in _OWN)
    return bool(given_by(config.option)) or any(own)


def active(config: pytest.Config) -> bool:
    """Whether tiers and grouping go for all tests: the project says so, or our options are used.
    Elsewhere only tests that ask for a guest are ours."""
    return bool(config.getini(ACTIVE)) or was_given(config)


def command_line_spec(config: pytest.Config) -> GuestSpec:
    """The guest that the options describe, worked out on first use. Raises UsageError."""
    return spec_and_why(config)[0]


def spec_and_why(config: pytest.Config) -> tuple[GuestSpec, str]:
    """The same, and why it has its target."""
    if _SPEC not in config.stash:
        from harness.targets.choose import spec_and_reason

        config.stash[_SPEC] = spec_and_reason(
            given_by(config.option), memory=lambda target: target.suite_memory
        )
    return config.stash[_SPEC]


def snapshot_mode(config: pytest.Config) -> SnapshotMode:
    return choice(SnapshotMode, option(config, "--snapshot"), "snapshot mode")


def rerun_command(config: pytest.Config, test: str) -> str:
    return shlex.join(["pytest", *rerun_words(config), test])


def rerun_words(config: pytest.Config) -> list[str]:
    """The options of a pytest whose guests are this one's."""
    words = spec_arguments(command_line_spec(config), option(config, "--kernel"))
    words += [*kernel_words(config), f"--tier={option(config, '--tier')}"]
    return [_spelled(config, word) for word in words]


def _spelled(config: pytest.Config, word: str) -> str:
    name = word.partition("=")[0]
    return _own(name) + word[len(name) :] if name in config.stash.get(TAKEN, ()) else word


def kernel_words(config: pytest.Config) -> list[str]:
    """What is on top of --kernel, as options."""
    names = ("--patch", "--fragment", "--set")
    return [f"{name}={text}" for name in names for text in option(config, name)]
