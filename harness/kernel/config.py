# SPDX-License-Identifier: MIT
"""Configuration fragments (Kconfig's own syntax, plus sections for ranges of versions), the .config
made of their settings, and proof that every setting survived Kconfig's dependencies."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from harness.base.guarded import run_guarded
from harness.base.resources import carried
from harness.base.status import UsageError
from harness.kernel.kconfig import Kconfig
from harness.kernel.make import KernelBuildError, build_environment, first_fault, make_argv
from harness.kernel.version import Version, VersionRange

_SET = re.compile(r"CONFIG_([A-Za-z0-9_]+)=(.*)")


def parse_config(text: str) -> dict[str, str]:
    """The symbols of a .config that are set; one that is not there is "n"."""
    return {match[1]: match[2] for match in map(_SET.fullmatch, text.splitlines()) if match}


@dataclass(frozen=True)
class Mismatch:
    """A symbol that did not come out as asked."""

    setting: Setting
    got: str

    def __str__(self) -> str:
        asked = self.setting
        return f"{asked.symbol}: asked {asked.value} ({asked.origin}), got {self.got}"


def mismatches(asked: Mapping[str, Setting], config: Mapping[str, str]) -> list[Mismatch]:
    """Every setting that `config` does not have as it was asked for."""
    return [
        Mismatch(setting, config.get(symbol, "n"))
        for symbol, setting in asked.items()
        if not _same(setting.value, config.get(symbol, "n"))
    ]


def _same(asked: str, got: str) -> bool:
    if asked == got:
        return True
    try:  # 0x10 and 0x0010 are one value
        return int(asked, 0) == int(got, 0)
    except ValueError:
        return False


def configure(
    source: Path, objects: Path, asked: Mapping[str, Setting], line: Callable[[str], None]
) -> None:
    """Write objects/.config from `asked` over allnoconfig, and verify it. UsageError if not.

    .config is replaced only if it differs: its time decides whether kbuild looks at everything.
    """
    wanted, made, config = (
        objects / name for name in (".cvm-asked.config", ".cvm-made.config", ".config")
    )
    wanted.write_text(render(asked))
    log: list[str] = []

    def keep(text: str) -> None:
        log.append(text)
        line(text)

    # KCONFIG_ALLCONFIG: allnoconfig with presets; what they make visible stays off unless asked
    # for (Documentation/kbuild/kconfig.rst). KCONFIG_CONFIG: the result, not yet the .config.
    env = build_environment(source) | {
        "KCONFIG_ALLCONFIG": str(wanted),
        "KCONFIG_CONFIG": made.name,
    }
    if run_guarded(make_argv(objects, "allnoconfig"), cwd=source, env=env, line=keep):
        fault = first_fault(log)
        raise KernelBuildError(
            f"configuring the kernel failed: {fault.cause}",
            hint="look at the Kconfig files that your patches or tree change",
            details=fault.details,
        )
    fresh = made.read_text()
    if wrong := mismatches(asked, parse_config(fresh)):
        raise _unmet(wrong, source, parse_config(fresh))
    if not config.exists() or config.read_text() != fresh:
        config.write_text(fresh)


def _unmet(wrong: list[Mismatch], source: Path, config: Mapping[str, str]) -> UsageError:
    kconfig = Kconfig.read(source)
    details = []
    for mismatch in wrong:
        details.append(str(mismatch))
        for reason in kconfig.explain(mismatch.setting.symbol, mismatch.setting.value, config):
            details.append(f"    {reason}")
    more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
    return UsageError(
        f"the configuration cannot be had: {wrong[0]}{more}",
        hint="set what it depends on (--set SYMBOL=y), or leave it out",
        details=details,
    )


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
            limited = _RANGE.fullmatch(section[1].strip())
            if not limited or not limited[0]:
                raise UsageError(
                    f"{where}: not a range of versions: [{section[1].strip()}]",
                    hint="write # [since 6.13], # [before 7.0], # [since 6.13 before 7.0] or "
                    "# [all]",
                )
            limits = VersionRange.parse(limited["since"], limited["before"])
        elif not_set := _NOT_SET.fullmatch(line):
            if version in limits:
                settings.append(Setting(not_set["symbol"], "n", where))
        elif line.strip() and not line.lstrip().startswith("#"):
            setting = parse_setting(line.strip(), where)
            if version in limits:
                settings.append(setting)
    return settings


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
