# SPDX-License-Identifier: MIT
"""Plan files: TOML text to a Plan, with every key checked. Format: docs/nightly.md."""

from __future__ import annotations

import functools
import re
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from harness.analysis.metrics import metric_named
from harness.base.guest_options import guest_option, guest_options
from harness.base.options import Door, size
from harness.base.status import UsageError
from harness.jobs.nightly.plan import (
    Config,
    Exclude,
    GuestValue,
    KernelArm,
    Limits,
    Measured,
    Plan,
    Suite,
)
from harness.kernel.source import parse_source

_T = TypeVar("_T")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}")
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*([smhd]?)")
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


class Table:
    """One TOML table, taken apart key by key; what is left over at the end is an error."""

    def __init__(self, data: object, where: str) -> None:
        if not isinstance(data, dict):
            raise UsageError(f"{where} is not a table")
        self._data: dict[str, Any] = dict(data)
        self.where = where

    def take(self, key: str, kind: type[_T], default: _T | None = None) -> _T:
        """The value of `key`, which must be a `kind`. Raises UsageError."""
        if key not in self._data:
            if default is None:
                raise UsageError(f"{self.where}: {key} is missing")
            return default
        value = self._data.pop(key)
        if kind is float and type(value) is int:
            value = float(value)
        if type(value) is not kind:  # bool is an int, and not meant here
            raise UsageError(f"{self.where}: {key} must be {_english(kind)}, not {value!r}")
        return value

    def optional(self, key: str, kind: type[_T]) -> _T | None:
        """The same, None where it is absent."""
        return self.take(key, kind) if key in self._data else None

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of strings, or one string."""
        value = self._data.pop(key, [])
        listed = [value] if isinstance(value, str) else value
        if not isinstance(listed, list) or not all(isinstance(item, str) for item in listed):
            raise UsageError(f"{self.where}: {key} must be a list of strings")
        return tuple(listed)

    def name(self) -> str:
        """The table's name: it becomes part of file names."""
        name = self.take("name", str)
        if not _NAME.fullmatch(name):
            raise UsageError(
                f"{self.where}: not a name: {name!r}", hint="use letters, digits and . _ + -"
            )
        return name

    def tables(self, key: str, make: Callable[[Table], _T]) -> tuple[_T, ...]:
        """A list of tables, each made by `make`; their names are unique."""
        listed = self._data.pop(key, [])
        if not isinstance(listed, list):
            raise UsageError(f"{self.where}: write [[{key}]]")
        made = []
        for number, data in enumerate(listed, 1):
            table = Table(data, f"{self.where}: {key} {number}")
            made.append(make(table))
            table.finish()
        names = [name for item in made if (name := getattr(item, "name", None))]
        for name in names:
            if names.count(name) > 1:
                raise UsageError(f"{self.where}: two of [[{key}]] are called {name!r}")
        return tuple(made)

    def table(self, key: str) -> Table:
        """A table within this one; empty if absent."""
        return Table(self._data.pop(key, {}), f"{self.where}: [{key}]")

    def rest(self) -> dict[str, Any]:
        """Everything not yet taken."""
        rest, self._data = self._data, {}
        return rest

    def finish(self) -> None:
        """Raise UsageError if a key was not understood."""
        if self._data:
            raise UsageError(
                f"{self.where}: unknown key {', '.join(self._data)}", hint="see docs/nightly.md"
            )


def _english(kind: type) -> str:
    names = {str: "a string", int: "a whole number", float: "a number", bool: "true or false"}
    return names.get(kind, kind.__name__)


def read_plan(path: Path) -> Plan:
    """The plan in the file `path`. Raises UsageError."""
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read the plan {path}: {error}") from error
    return parse_plan(text, str(path), default_name=path.stem)


def parse_plan(text: str, where: str = "plan", default_name: str = "plan") -> Plan:
    """The plan that `text` describes. Raises UsageError naming the table and key at fault."""
    try:
        top = Table(tomllib.loads(text), where)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{where} is not TOML: {error}") from error
    kernels = top.tables("kernel", _kernel)
    if not kernels:
        raise UsageError(f"{where}: no [[kernel]]", hint="see docs/nightly.md for an example")
    matrix = _matrix(top.table("matrix"))
    plan = Plan(
        name=top.take("name", str, default_name),
        kernels=kernels,
        configs=top.tables("config", _config) or (Config("default"),),
        matrix=matrix,
        suites=top.tables("suite", _suite),
        workloads=top.tables("workload", _workload),
        excludes=top.tables("exclude", functools.partial(_exclude, matrix=matrix)),
        limits=_limits(top.table("limits")),
        baselines=top.take("baselines", str, "baselines"),
        seed=top.take("seed", int, 1),
    )
    top.finish()
    if not _NAME.fullmatch(plan.name):
        raise UsageError(f"{where}: not a name: {plan.name!r}", hint="use letters, digits, . _ -")
    if not plan.suites and not plan.workloads:
        raise UsageError(f"{where}: neither [[suite]] nor [[workload]]: there is nothing to do")
    _check_bases(plan, where)
    return plan


def _check_bases(plan: Plan, where: str) -> None:
    names = [arm.name for arm in plan.kernels]
    for arm in plan.kernels:
        if arm.base is None:
            continue
        if arm.base not in names or arm.base == arm.name:
            raise UsageError(f"{where}: kernel {arm.name}: no other kernel is called {arm.base!r}")


def _kernel(table: Table) -> KernelArm:
    source = table.take("source", str)
    parse_source(source)
    return KernelArm(
        name=table.name(),
        source=source,
        patches=table.texts("patches"),
        base=table.optional("base", str),
        dirty=table.take("dirty", bool, False),
    )


def _config(table: Table) -> Config:
    return Config(table.name(), table.texts("fragments"), table.texts("settings"))


def _suite(table: Table) -> Suite:
    suite = Suite(
        name=table.name(),
        tests=table.texts("tests"),
        options=table.texts("options"),
        repeats=table.take("repeats", int, 2),
    )
    if not suite.tests:
        raise UsageError(f"{table.where}: no tests", hint='write tests = ["tests/guest"]')
    if not 0 <= suite.repeats <= 20:
        raise UsageError(f"{table.where}: repeats must be 0 to 20")
    return suite


def _workload(table: Table) -> Measured:
    name = table.name()
    guest = table.table("guest").rest()
    measured = Measured(
        name=name,
        workload=table.take("workload", str, name),
        options=table.texts("options"),
        metrics=table.texts("metrics"),
        margin_percent=table.take("margin_percent", float, Measured.margin_percent),
        repetitions=table.take("repetitions", int, 5),
        detect_percent=table.optional("detect_percent", float),
        most=table.take("most", int, 50),
        guest={key: _guest_value(table.where, key, value) for key, value in guest.items()},
    )
    if not 1 <= measured.repetitions <= measured.most <= 10_000:
        raise UsageError(f"{table.where}: 1 <= repetitions <= most <= 10000 does not hold")
    for metric in measured.metrics:
        metric_named(metric)
    if not 0 < measured.margin_percent < 100:
        raise UsageError(f"{table.where}: margin_percent must be between 0 and 100")
    if measured.detect_percent is not None and not 0 < measured.detect_percent < 100:
        raise UsageError(f"{table.where}: detect_percent must be between 0 and 100")
    return measured


def _exclude(table: Table, matrix: Mapping[str, object]) -> Exclude:
    reason = table.take("reason", str)
    match = table.rest()
    known = {"kind", "kernel", "config", "suite", "workload"}
    known |= {option.name for option in guest_options(Door.PLAN)}
    for key in match:
        if key not in known:
            raise UsageError(f"{table.where}: cells have no {key!r}")
    if not match:
        raise UsageError(f"{table.where}: would exclude everything: it names no key")
    return Exclude(match, reason)


def _limits(table: Table) -> Limits:
    given: dict[str, Any] = {"alone": table.take("alone", bool, True)}
    for key in ("time", "cell_time"):
        if (text := table.optional(key, str)) is not None:
            given[f"{key}_s"] = parse_duration(text, f"{table.where} {key}")
    for key in ("disk", "free_disk", "memory"):
        if (text := table.optional(key, str)) is not None:
            given[key] = size(text, f"{table.where} {key}")
    table.finish()
    return Limits(**given)


def parse_duration(text: str, where: str) -> float:
    """Seconds meant by "90", "45m", "8h". Raises UsageError."""
    match = _DURATION.fullmatch(text.strip())
    if not match or float(match[1]) <= 0:
        raise UsageError(f"{where}: not a duration: {text!r}", hint="write 90s, 45m or 8h")
    return float(match[1]) * _SECONDS[match[2]]


def _guest_value(where: str, key: str, value: object) -> GuestValue:
    option = guest_option(key, f"{where}: ")
    kind = option.row.kind.plan
    if Door.PLAN not in option.row.doors:
        raise UsageError(f"{where}: plans have no guest option {key!r}")
    if type(value) is not kind:
        raise UsageError(f"{where}: {key} must be {_english(kind)}, not {value!r}")
    return value  # type: ignore[return-value]


def _matrix(table: Table) -> dict[str, tuple[GuestValue, ...]]:
    matrix = {}
    for key, value in table.rest().items():
        values = value if isinstance(value, list) else [value]
        if not values:
            raise UsageError(f"{table.where}: {key} has no value")
        matrix[key] = tuple(_guest_value(table.where, key, item) for item in values)
    return matrix
