# SPDX-License-Identifier: MIT
"""Configuration fragments: Kconfig's own syntax, plus sections for ranges of versions.

A fragment is a valid .config piece. A comment line of the form `# [since 6.13]`, `# [before 7.0]`
or `# [since 6.13 before 7.0]` limits the lines after it to those kernel versions ("since" is
included, "before" is not), up to the next such line; `# [all]` ends the limit.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from harness.base.resources import carried
from harness.base.status import UsageError
from harness.kernel.version import Version, VersionRange

DIRECTORY = carried("kernel-configs")

_SECTION = re.compile(r"#\s*\[(.*)\]\s*")
_RANGE = re.compile(r"(?:since (?P<since>[\d.]+))?\s*(?:before (?P<before>[\d.]+))?|all")
_SETTING = re.compile(r"(?:CONFIG_)?(?P<symbol>[A-Za-z0-9_]+)=(?P<value>.*)")
_NOT_SET = re.compile(r"# CONFIG_(?P<symbol>[A-Za-z0-9_]+) is not set\s*")
_VALUE = re.compile(r'[ymn]|-?\d+|0[xX][0-9a-fA-F]+|"(?:[^"\\\n]|\\.)*"')


@dataclass(frozen=True)
class Setting:
    """One symbol asked for, without CONFIG_; `value` as in a .config, "n" for "is not set"."""

    symbol: str
    value: str
    origin: str
    """Where it was asked for: "base.config:12" or "--set"."""

    def render(self) -> str:
        """The line of a .config."""
        if self.value == "n":
            return f"# CONFIG_{self.symbol} is not set"
        return f"CONFIG_{self.symbol}={self.value}"


def known_fragments(directory: Path = DIRECTORY) -> list[str]:
    """The names of the project's own fragments."""
    return sorted(file.stem for file in directory.glob("*.config"))


def read_fragment(name: str, version: Version, directory: Path = DIRECTORY) -> list[Setting]:
    """The settings of the fragment called `name`, or in the file `name` (a path with a "/" or
    the ending ".config"), that hold for `version`."""
    file = directory / f"{name}.config"
    if "/" in name or name.endswith(".config"):
        file = Path(name)
    try:
        text = file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        known = ", ".join(known_fragments(directory))
        raise UsageError(
            f"unknown configuration fragment {name!r}",
            hint=f"known: {known}; or give the path of a file",
        ) from error
    return parse_fragment(text, version, file.name)


def parse_fragment(text: str, version: Version, origin: str) -> list[Setting]:
    """The settings in `text` that hold for `version`, in order. Raises UsageError."""
    settings = []
    limits = VersionRange()
    for number, line in enumerate(text.splitlines(), 1):
        where = f"{origin}:{number}"
        if section := _SECTION.fullmatch(line):
            limits = _parse_range(section[1].strip(), where)
        elif not_set := _NOT_SET.fullmatch(line):
            if version in limits:
                settings.append(Setting(not_set["symbol"], "n", where))
        elif line.strip() and not line.lstrip().startswith("#"):
            setting = parse_setting(line.strip(), where)
            if version in limits:
                settings.append(setting)
    return settings


def _parse_range(text: str, where: str) -> VersionRange:
    match = _RANGE.fullmatch(text)
    if not match or not text:
        raise UsageError(
            f"{where}: not a range of versions: [{text}]",
            hint="write # [since 6.13], # [before 7.0], # [since 6.13 before 7.0] or # [all]",
        )
    since, before = match["since"], match["before"]
    return VersionRange(
        Version.parse(since) if since else None, Version.parse(before) if before else None
    )


def parse_setting(text: str, origin: str = "--set") -> Setting:
    """The setting that `text` is: "NUMA=y", "CONFIG_NR_CPUS=255", 'CMDLINE="quiet"'."""
    match = _SETTING.fullmatch(text)
    if not match or not _VALUE.fullmatch(match["value"]):
        raise UsageError(
            f"{origin}: not a configuration setting: {text!r}",
            hint='write SYMBOL=value with y, m, n, a number or a "string"',
        )
    return Setting(match["symbol"], match["value"], origin)


def merge(settings: Iterable[Setting]) -> dict[str, Setting]:
    """The last word on each symbol."""
    return {setting.symbol: setting for setting in settings}


def render(settings: Mapping[str, Setting]) -> str:
    """A .config piece that asks for `settings`."""
    return "".join(f"{settings[symbol].render()}\n" for symbol in sorted(settings))
