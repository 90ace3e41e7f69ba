# SPDX-License-Identifier: MIT
"""Just enough of the Kconfig language to say why a symbol did not come out as asked: kconfiglib
stops at syntax newer than itself ("transitional", 6.18)."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

_TYPES = ("bool", "tristate", "string", "int", "hex")
_ENTRY = re.compile(
    r"\s*(config|menuconfig|choice|endchoice|menu|endmenu|if|endif|comment|source|mainmenu)\b\s*(.*)"
)
_TOKEN = re.compile(r'"[^"]*"|\$\([^)]*\)|[A-Za-z0-9_]+|&&|\|\||!=|<=|>=|[!=<>()]')
_OPERATORS = {"&&": "and", "||": "or", "!": "not", "=": "=="}
_OPERATORS |= {token: token for token in ("!=", "<", ">", "<=", ">=", "(", ")")}
"""Kconfig's, and Python's of the same precedence."""


@dataclass
class Definition:
    """One `config` entry."""

    symbol: str
    where: str
    depends: list[str] = field(default_factory=list)
    selects: list[str] = field(default_factory=list)
    prompt: bool = False


@dataclass(frozen=True)
class Kconfig:
    """All definitions that x86 sees, by symbol."""

    definitions: Mapping[str, Sequence[Definition]]

    @classmethod
    def read(cls, source: Path) -> Kconfig:
        """Read a tree's Kconfig files, from the top one on."""
        found: dict[str, list[Definition]] = {}
        seen = set()
        waiting: list[tuple[str, list[str]]] = [("Kconfig", [])]
        while waiting:
            name, conditions = waiting.pop()
            file = source / name.replace("$(SRCARCH)", "x86").replace("$(HEADER_ARCH)", "x86")
            if file in seen or not file.is_file():
                continue
            seen.add(file)
            text = file.read_text(errors="replace")
            definitions, sourced = parse_kconfig(text, str(file.relative_to(source)), conditions)
            waiting += sourced
            for definition in definitions:
                found.setdefault(definition.symbol, []).append(definition)
        return cls(found)

    def explain(self, symbol: str, asked: str, config: Mapping[str, str]) -> Iterator[str]:
        """Likely reasons why `symbol` is not `asked` in `config`."""
        definitions = self.definitions.get(symbol)
        if not definitions:
            yield "this kernel has no such symbol"
            return
        if asked == "n":
            for other in self._selecting(symbol):
                if config.get(other, "n") != "n":
                    yield f"selected by {other}"
            return
        for definition in definitions:
            for expression in definition.depends:
                if not holds(expression, config):
                    unset = [x for x in _symbols(expression) if config.get(x, "n") == "n"]
                    note = f"; not set: {', '.join(unset)}" if unset else ""
                    yield f"depends on {expression} ({definition.where}){note}"
        if not any(definition.prompt for definition in definitions):
            selecting = sorted(self._selecting(symbol))
            yield f"cannot be set directly; selected by: {', '.join(selecting[:6]) or 'nothing'}"

    def _selecting(self, symbol: str) -> Iterator[str]:
        for other, entries in self.definitions.items():
            if any(symbol in entry.selects for entry in entries):
                yield other


def _symbols(expression: str) -> list[str]:
    words = [word for word in _TOKEN.findall(expression) if re.fullmatch(r"[A-Za-z0-9_]+", word)]
    return [word for word in dict.fromkeys(words) if word not in ("y", "n", "m", "if")]


def holds(expression: str, config: Mapping[str, str]) -> bool:
    """Whether a dependency holds in `config`; one that cannot be read is taken to hold."""
    words = []
    for token in _TOKEN.findall(expression):
        if token in _OPERATORS:
            words.append(_OPERATORS[token])
        else:  # what only make can expand is taken to hold
            value = "y" if token[0] == "$" else _value(token, config)
            words.append(f"({value!r})")
    try:
        return _true(ast.parse(" ".join(words), mode="eval").body)
    except SyntaxError:
        return True


def _true(node: ast.expr) -> bool:
    match node:
        case ast.BoolOp(ast.And(), values):
            return all(map(_true, values))
        case ast.BoolOp(ast.Or(), values):
            return any(map(_true, values))
        case ast.UnaryOp(ast.Not(), operand):
            return not _true(operand)
        case ast.Compare(left, [ast.Eq() | ast.NotEq() as operator], [right]):
            return (ast.dump(left) == ast.dump(right)) == isinstance(operator, ast.Eq)
        case ast.Constant(value):
            return value in ("y", "m")
    return True  # of versions and limits, or with "if": rarely the reason


def _value(token: str, config: Mapping[str, str]) -> str:
    if token in ("y", "m", "n") or token[0] == '"' or token.isdecimal():
        return token.strip('"')
    return config.get(token, "n").strip('"')


def parse_kconfig(
    text: str, name: str, conditions: Sequence[str] = ()
) -> tuple[list[Definition], list[tuple[str, list[str]]]]:
    """The definitions in one Kconfig file and the files it sources, each with the conditions
    around it; `conditions` are those around the file."""
    definitions: list[Definition] = []
    sourced: list[tuple[str, list[str]]] = []
    around: list[list[str]] = [list(conditions)]
    current: Definition | None = None
    for number, line in _logical_lines(text):
        entry = _ENTRY.fullmatch(line)
        keyword, rest = (entry[1], entry[2].strip()) if entry else ("", "")
        outer = [condition for block in around for condition in block]
        if keyword in ("config", "menuconfig"):
            current = Definition(rest.partition(" ")[0], f"{name}:{number}", outer)
            definitions.append(current)
            continue
        if not keyword:
            _attribute(line.strip(), current, around)
            continue
        current = None
        if keyword == "source":
            sourced.append((rest.strip('"'), outer))
        elif keyword in ("if", "menu", "choice"):
            around.append([rest] if keyword == "if" else [])
        elif keyword.startswith("end") and len(around) > 1:
            around.pop()
    return definitions, sourced


def _attribute(line: str, current: Definition | None, around: list[list[str]]) -> None:
    head, _, rest = line.partition(" ")
    if line.startswith("depends on "):
        (current.depends if current else around[-1]).append(line.removeprefix("depends on "))
    elif current and head == "select":
        current.selects.append(rest.partition(" ")[0])
    elif current and (head == "prompt" or (head in _TYPES and '"' in rest)):
        current.prompt = True


def _logical_lines(text: str) -> Iterator[tuple[int, str]]:
    """Lines with continuations joined and blanks made single; no comments, no help texts."""
    help_indent: int | None = None
    in_help = False
    held, held_number = "", 0
    for number, raw in enumerate(text.expandtabs(8).splitlines(), 1):
        if in_help:
            indent = len(raw) - len(raw.lstrip())
            help_indent = help_indent or (indent if raw.strip() else None)
            if not raw.strip() or (indent and help_indent and indent >= help_indent):
                continue
            in_help = False
        line, start = held + raw, held_number or number
        held, held_number = "", 0
        if line.endswith("\\"):
            held, held_number = line[:-1], start
        elif line.strip() in ("help", "---help---"):
            in_help, help_indent = True, None
        elif line.strip() and not line.lstrip().startswith("#"):
            yield start, re.sub(r"\s+", " ", line.rstrip())
