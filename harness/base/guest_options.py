# SPDX-License-Identifier: MIT
"""The table of guest options: the `option` fields of GuestSpec and its parts. Command line, pytest
options, plan keys, the `acceptance` mark, rerun commands and docs/options.md follow from it."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

from harness.base.options import Door, Option, unknown
from harness.base.spec import GuestSpec, TargetName
from harness.base.status import UsageError

SPEC: Any = GuestSpec
"""The class whose fields are the table."""


def guest_options(door: Door | None = None) -> tuple[Option, ...]:
    """Every option, in the order of the fields; with `door` those that can be given there."""
    return tuple(o for o in _options(SPEC) if door is None or door in o.row.doors)


@functools.cache
def _options(cls: Any) -> tuple[Option, ...]:
    found: list[Option] = []
    for f in dataclasses.fields(cls):
        if row := f.metadata.get("option"):
            found.append(Option(row.name or f.name, (f.name,), f.default, row))
        elif dataclasses.is_dataclass(part := f.default_factory):
            found += (
                dataclasses.replace(option, path=(f.name, *option.path))
                for option in _options(part)
            )
    return tuple(found)


def guest_option(name: str, where: str = "") -> Option:
    """The option called `name`. Raises UsageError with the nearest; `where` begins its text."""
    known = {option.name: option for option in _options(SPEC)}
    if name not in known:
        raise unknown(f"{where}guests have no option", name, known)
    return known[name]


def read_options(given: Mapping[str, object]) -> dict[str, Any]:
    """Option name -> value of what is `given`; None stands for the default and is left out. Raises
    UsageError."""
    values = {
        name: guest_option(name).value(value) for name, value in given.items() if value is not None
    }
    return {name: value for name, value in values.items() if value is not None}


def blank_spec(target: TargetName, memory: int) -> GuestSpec:
    """A guest with every option at its default."""
    spec: GuestSpec = SPEC(target=target, memory=memory)
    return spec


def value_of(spec: GuestSpec, option: Option) -> Any:
    return functools.reduce(getattr, option.path, spec)


def with_options(spec: GuestSpec, values: Mapping[str, Any]) -> GuestSpec:
    """`spec` with other values of options. Raises UsageError where they make no guest."""
    tree: dict[str, Any] = {}
    for name, value in values.items():
        *parts, last = guest_option(name).path
        functools.reduce(lambda node, part: node.setdefault(part, {}), parts, tree)[last] = value
    changed: GuestSpec = _replaced(spec, tree)
    return changed


def _replaced(part: Any, tree: Mapping[str, Any]) -> Any:
    changes = {
        name: _replaced(getattr(part, name), value) if isinstance(value, dict) else value
        for name, value in tree.items()
    }
    return dataclasses.replace(part, **changes)


def changed_options(spec: GuestSpec) -> tuple[Option, ...]:
    """The options whose value in `spec` is not the default."""
    return tuple(o for o in guest_options() if value_of(spec, o) != o.default)


def check_applies(spec: GuestSpec) -> None:
    """Raise UsageError for an option that guests of the spec's target cannot have."""
    for option in changed_options(spec):
        if not option.applies_to(spec.target):
            raise UsageError(
                f"{option.flag} is not for {spec.target.value} guests, only for "
                f"{' and '.join(option.row.targets)}",
                hint="leave it out, or choose another --target",
            )


def spec_arguments(spec: GuestSpec, kernel: str) -> list[str]:
    """The options that make `spec` again, of the command line and of pytest alike: what differs
    from the defaults, and what has no fixed default."""
    told = [o for o in guest_options() if o.row.moving or value_of(spec, o) != o.default]
    first, *rest = [option.argument(value_of(spec, option)) for option in told]
    return [first, f"--kernel={kernel}", *rest]


def given_options(door: Door, given: Callable[[Option], object]) -> dict[str, object]:
    """What a door was given, by option name; `given` is asked for each, None is the default."""
    found = {option.name: given(option) for option in guest_options(door)}
    return {name: value for name, value in found.items() if value is not None}
