# SPDX-License-Identifier: MIT
"""The plugin's command-line options, and the guest that they describe.

They are added after those of all other plugins and conftests: a name that is taken is left to its
owner, and ours is then spelled `--cvm-NAME`. On the command line they have no defaults, so that it
shows whether any was given; what is not given is `DEFAULTS`'.
"""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Iterator
from typing import Any

import pytest

from harness.base.options import CONFIDENTIAL_OPTIONS, DEFAULT_KERNEL, choice, spec_arguments
from harness.base.spec import GuestSpec, SnapshotMode, TargetName
from harness.base.units import GIB

ACTIVE = "cvm_harness"
"""Name of the ini option that makes a project's tests the harness's."""
_EMULATED_MEMORY = 2 * GIB
_SPEC = pytest.StashKey[GuestSpec]()

_ADDED: tuple[tuple[str, dict[str, Any], str], ...] = (
    ("--target", {}, "auto, emulated, snp or tdx; auto takes the best this host can do (auto)"),
    (
        "--kernel",
        {},
        "debian:6.12, debian-binary:6.12, a kernel tree, git:REPO@REF, or a bzImage "
        f"({DEFAULT_KERNEL})",
    ),
    ("--memory", {}, "guest memory (2G; on snp and tdx 16G, of which 14G lie high)"),
    ("--vcpus", {"type": int}, "virtual CPUs (2)"),
    ("--accept", {}, "lazy or eager (lazy)"),
    ("--accel", {}, "auto, kvm or tcg (auto)"),
    ("--route", {}, "direct or efi (direct)"),
    ("--cost", {}, "cost model: free, tdx, snp or ns per 2 MiB (free)"),
    *(
        (name.split("/")[0], {"action": "store_true"} if "/" in name else rest, words)
        for name, _, words, rest in CONFIDENTIAL_OPTIONS
    ),
    ("--append", {}, "more words for the guest kernel's command line"),
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
NAMES = tuple(name for name, _, _ in _ADDED)
DEFAULTS: dict[str, Any] = {
    "--target": "auto",
    "--kernel": DEFAULT_KERNEL,
    "--vcpus": 2,
    "--accept": "lazy",
    "--accel": "auto",
    "--route": "direct",
    "--cost": "free",
    **{name.split("/")[0]: default for name, default, _, _ in CONFIDENTIAL_OPTIONS},
    "--append": "",
    "--patch": (),
    "--fragment": (),
    "--set": (),
    "--tier": "quick",
    "--snapshot": "auto",
    "--runs": "runs",
}


def add_options(parser: pytest.Parser) -> None:
    """Add each option under its own name where that is free, and always as `--cvm-NAME`."""
    taken = set(_taken(parser))
    group = parser.getgroup("cvm-harness", "confidential-VM guests")
    for name, rest, words in _ADDED:
        names = [_own(name)] if name in taken else [name, _own(name)]
        rest = {**rest, "default": None, "dest": _dest(name), "help": words}
        group.addoption(*names, **rest)


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
    """What was given for our option called `name`, else its default."""
    given = config.getoption(_dest(name), default=None)
    return DEFAULTS.get(name) if given is None or given is False else given


def was_given(config: pytest.Config) -> bool:
    """Whether the command line has any of our options."""
    return any(config.getoption(_dest(name), default=None) for name in NAMES)


def active(config: pytest.Config) -> bool:
    """Whether tiers and grouping go for all tests: the project says so, or our options are used.

    Elsewhere only tests that ask for a guest are ours.
    """
    return bool(config.getini(ACTIVE)) or was_given(config)


def command_line_spec(config: pytest.Config) -> GuestSpec:
    """The guest that the options describe, worked out on first use. Raises UsageError."""
    if _SPEC not in config.stash:
        config.stash[_SPEC] = _spec(config)
    return config.stash[_SPEC]


def _spec(config: pytest.Config) -> GuestSpec:
    from harness.targets.choose import guest_spec

    spec = guest_spec(
        **{
            name.removeprefix("--").replace("-", "_"): option(config, name)
            for name in NAMES[: NAMES.index("--append") + 1]
            if name != "--kernel"
        }
    )
    if spec.target is TargetName.EMULATED and not option(config, "--memory"):
        spec = dataclasses.replace(spec, memory=_EMULATED_MEMORY)
    return spec


def snapshot_mode(config: pytest.Config) -> SnapshotMode:
    """What --snapshot asks for. Raises UsageError."""
    return choice(SnapshotMode, option(config, "--snapshot"), "snapshot mode")


_TOLD = ("--target", "--kernel", "--memory", "--vcpus", "--accept", "--accel", "--route", "--cost")
"""The options that name the guest, of those that spec_arguments() makes."""


def rerun_command(config: pytest.Config, test: str) -> str:
    """The command line that runs one test again as it was run."""
    made = spec_arguments(command_line_spec(config), option(config, "--kernel"))
    words = [word for word in made if word.startswith((*_TOLD, "--append"))]
    words += [*kernel_words(config), f"--tier={option(config, '--tier')}"]
    return shlex.join(["pytest", *words, test])


def kernel_words(config: pytest.Config) -> list[str]:
    """What is on top of --kernel, as options."""
    names = ("--patch", "--fragment", "--set")
    return [f"{name}={text}" for name in names for text in option(config, name)]
