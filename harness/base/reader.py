# SPDX-License-Identifier: MIT
"""TOML and JSON files into typed values by msgspec: unknown keys are refused, and every error names
the file, the place in it, what was expected, and what a misspelled key is nearest to."""

from __future__ import annotations

import contextlib
import difflib
import enum
import json
import re
import tomllib
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from harness.base.status import PreconditionError, UsageError

_T = TypeVar("_T")
_MAX_BYTES = 64 << 20
_EXPECTED = re.compile(r"Expected `(?P<kind>[^`]+)`(?:, got `[^`]+`)?(?P<more>.*?)(?: - at .*)?")
ENGLISH = {
    "str": "a string",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "array": "a list",
    "object": "a table",
}
"""What messages call a type of msgspec."""


@contextlib.contextmanager
def believing() -> Iterator[None]:
    """What was recorded or measured and cannot be read is no mistake of the user's: UsageErrors of
    the functions below become PreconditionErrors."""
    try:
        yield
    except UsageError as error:
        raise PreconditionError(error.cause) from error


class FileType(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a file, or a table of one, holds. A ValueError or UsageError of `__post_init__` is told
    with its place. Fields of a type that has a class method `from_file` are made by it."""


class Words(tuple[str, ...]):
    """A list of strings, of which one alone may stand for the list."""

    __slots__ = ()

    @classmethod
    def from_file(cls, value: object) -> Words:
        """Raises ValueError for anything else."""
        words = [value] if isinstance(value, str) else value
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            raise ValueError(f"must be a list of strings, not {value!r:.80}")
        return cls(words)


def read_toml(path: Path, kind: type[_T], hint: str = "") -> _T:
    """The TOML file `path` as a `kind`. Raises UsageError."""
    return parse_toml(_text(path, hint), kind, str(path), hint)


def read_json(path: Path, kind: type[_T], hint: str = "") -> _T:
    """The JSON file `path` as a `kind`. Raises UsageError."""
    return parse_json(_text(path, hint), kind, str(path), hint)


def parse_toml(text: str, kind: type[_T], where: str, hint: str = "") -> _T:
    """TOML as a `kind`. Raises UsageError, in which `where` names the text."""
    return convert(_loaded(tomllib.loads, text, f"{where} is not TOML", hint), kind, where, hint)


def parse_json(text: str | bytes, kind: type[_T], where: str, hint: str = "") -> _T:
    """JSON as a `kind`. Raises UsageError, in which `where` names the text."""
    return convert(_loaded(json.loads, text, f"{where} is not JSON", hint), kind, where, hint)


def _loaded(load: Callable[[Any], object], text: str | bytes, otherwise: str, hint: str) -> object:
    try:
        return load(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{otherwise}: {error}", hint=hint) from error


def convert(data: object, kind: type[_T], where: str, hint: str = "") -> _T:
    """What TOML or JSON gave as a `kind`. Raises UsageError, in which `where` names its origin."""
    try:
        return msgspec.convert(data, kind, dec_hook=_custom, str_keys=True)
    except (msgspec.ValidationError, UsageError, RecursionError) as error:
        place, wrong = _fault(data, kind) or ("", error)
        said = str(wrong)
        if isinstance(wrong, UsageError):
            said, hint = wrong.cause, wrong.hint or hint
        at = ": ".join(filter(None, (where, place)))
        between = " " if said.startswith("must be") else ": "
        raise UsageError(f"{at}{between}{said}", hint=hint) from error


def _text(path: Path, hint: str) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
        if len(data) > _MAX_BYTES:
            raise ValueError("it is too large to believe")
        return data.decode()
    except (OSError, ValueError) as error:
        said = error.strerror if isinstance(error, OSError) else error
        raise UsageError(f"cannot read {path}: {said}", hint=hint) from error


def _custom(kind: Any, value: object) -> Any:
    if not issubclass(kind, Path):
        return kind.from_file(value)
    if not isinstance(value, str):
        raise ValueError(f"must be a string, not {value!r:.80}")
    return Path(value)


def _fault(data: object, kind: Any, place: str = "") -> tuple[str, object] | None:
    """The innermost place at which `data` is no `kind`, and what is wrong there."""
    if isinstance(data, dict) and (table := _table(kind)):
        fields = {field.encode_name: field for field in msgspec.structs.fields(table)}
        for key in data:
            if key not in fields:
                near = difflib.get_close_matches(str(key), fields, 1)
                return place, f"unknown key {key}" + (f": did you mean {near[0]}?" if near else "")
        for name, field in fields.items():
            if name not in data and field.required:
                return place, f"{name} is missing"
    for key, item, inner in _parts(data, kind):
        if found := _fault(item, inner, f"{place}: {key}" if place else key):
            return found
    try:
        msgspec.convert(data, kind, dec_hook=_custom, str_keys=True)
    except msgspec.ValidationError as error:
        return place, _words(str(error), data, kind)
    except UsageError as error:
        return place, error
    return None


def _table(kind: Any) -> type[FileType] | None:
    """The FileType among the alternatives that `kind` leaves."""
    alternatives = typing.get_args(kind) if _is_union(kind) else (kind,)
    return next((k for k in alternatives if isinstance(k, type) and issubclass(k, FileType)), None)


def _is_union(kind: Any) -> bool:
    return typing.get_origin(kind) in (types.UnionType, typing.Union)


def _parts(data: object, kind: Any) -> Iterator[tuple[str, object, Any]]:
    """Name, value and type of everything in `data` that has a type of its own."""
    if _is_union(kind):
        for alternative in typing.get_args(kind):
            yield from _parts(data, alternative)
    elif isinstance(data, dict) and (table := _table(kind)):
        for field in msgspec.structs.fields(table):
            if field.encode_name in data:
                yield from _named(field.encode_name, data[field.encode_name], field.type)
    elif isinstance(data, dict) and typing.get_origin(kind) in (dict, Mapping):
        for key, item in data.items():
            yield str(key), item, typing.get_args(kind)[1]


def _named(name: str, value: object, kind: Any) -> Iterator[tuple[str, object, Any]]:
    """A list of tables table by table, anything else as it is."""
    arguments = [a for a in typing.get_args(kind) if a is not Ellipsis]
    if isinstance(value, list) and len(arguments) == 1 and _is_row(arguments[0]):
        for number, item in enumerate(value, 1):
            called = (item.get("name") or item.get("id")) if isinstance(item, dict) else None
            yield f"{name} {number}" + (f" ({called})" if called else ""), item, arguments[0]
    else:
        yield name, value, kind


def _is_row(kind: Any) -> bool:
    return _table(kind) is not None or hasattr(kind, "from_file")


def _words(said: str, data: object, kind: Any) -> str:
    """msgspec's message, as a sentence that begins with the key."""
    if said.startswith("Invalid enum value"):
        values: Iterable[object] = typing.get_args(kind)
        if isinstance(kind, enum.EnumType):
            values = [getattr(kind, name).value for name in kind.__members__]
        return f"must be {' or '.join(map(str, values))}, not {data!r:.80}"
    if match := _EXPECTED.fullmatch(said):
        kinds = [kind for kind in match["kind"].split(" | ") if kind != "null"]
        english = " or ".join(ENGLISH.get(kind, kind) for kind in kinds)
        return f"must be {english}{match['more']}, not {data!r:.80}"
    return said
