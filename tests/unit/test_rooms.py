# SPDX-License-Identifier: MIT
"""The shape of the code: nothing imports in a circle, and a name means one thing.

That a room uses only rooms below it is import-linter's to check (pyproject.toml).
"""

import ast
import collections
import functools
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import harness

ROOT = Path(harness.__file__).parent


@functools.cache
def modules() -> Mapping[str, ast.Module]:
    """Every module of the harness, taken apart."""
    found = {}
    for path in ROOT.rglob("*.py"):
        parts = path.relative_to(ROOT.parent).with_suffix("").parts
        found[".".join(parts).removesuffix(".__init__")] = ast.parse(path.read_text(), str(path))
    return found


def imports_of(tree: ast.Module) -> Iterator[str]:
    """Whatever a module imports anywhere: in functions, and for type checkers alone, too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in modules() else node.module


def test_no_module_imports_one_that_imports_it_back() -> None:
    graph = {name: {*imports_of(tree)} & modules().keys() for name, tree in modules().items()}
    assert sum(map(len, graph.values())) > 1000
    try:
        TopologicalSorter({name: needs - {name} for name, needs in graph.items()}).prepare()
    except CycleError as circle:
        raise AssertionError(" → ".join(circle.args[1])) from None


def test_no_two_public_classes_have_the_same_name() -> None:
    homes = collections.defaultdict(list)
    for name, tree in modules().items():
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                homes[node.name].append(name)
    assert len(homes) > 300
    assert {name: where for name, where in homes.items() if len(where) > 1} == {}


def test_no_class_has_to_be_hidden_from_pytest() -> None:
    names = [n.id for tree in modules().values() for n in ast.walk(tree) if isinstance(n, ast.Name)]
    assert len(names) > 10_000
    assert "__test__" not in names


def test_what_differs_between_targets_is_told_by_the_targets_alone() -> None:
    """Elsewhere nobody asks which target it is, but what the target says of itself."""
    asks = {
        name
        for name, tree in modules().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "TargetName"
    }
    assert "harness.targets.tdx" in asks
    table = {"harness.base.spec"}
    assert {name for name in asks - table if not name.startswith("harness.targets.")} == set()
