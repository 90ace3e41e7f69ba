# SPDX-License-Identifier: MIT
"""From settings to a .config, and proof that every setting survived Kconfig's dependencies."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from harness.base.guarded import run_guarded
from harness.base.status import UsageError
from harness.kernel.fragment import Setting, render
from harness.kernel.kconfig import Kconfig
from harness.kernel.make import (
    KernelBuildError,
    build_environment,
    first_fault,
    make_argv,
)

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
    wanted = objects / ".cvm-asked.config"
    text = render(asked)
    config = objects / ".config"
    made = objects / ".cvm-made.config"
    wanted.write_text(text)
    _make(source, objects, made, wanted, line)
    fresh = made.read_text()
    wrong = mismatches(asked, parse_config(fresh))
    if wrong:
        raise _unmet(wrong, source, parse_config(fresh))
    if not config.exists() or config.read_text() != fresh:
        config.write_text(fresh)


def _make(
    source: Path, objects: Path, made: Path, wanted: Path, line: Callable[[str], None]
) -> None:
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
    code = run_guarded(make_argv(objects, "allnoconfig"), cwd=source, env=env, line=keep)
    if code:
        fault = first_fault(log)
        raise KernelBuildError(
            f"configuring the kernel failed: {fault.cause}",
            hint="look at the Kconfig files that your patches or tree change",
            details=fault.details,
        )


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
