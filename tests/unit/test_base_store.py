# SPDX-License-Identifier: MIT
"""The store builds once, publishes whole entries only, and sweeps the least recently used."""

import os
import threading
from pathlib import Path

import pytest

from harness.base.store import Store, digest_of


def test_builds_once_however_many_ask_at_once(tmp_path: Path) -> None:
    built: list[str] = []

    def build(directory: Path) -> None:
        built.append("x")
        (directory / "out").write_text("made")

    def ask() -> None:
        Store(tmp_path).fetch("thing", "d1", build)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert built == ["x"]
    assert (Store(tmp_path).path("thing", "d1") / "out").read_text() == "made"


def test_a_failed_build_leaves_no_entry_and_no_leftover(tmp_path: Path) -> None:
    store = Store(tmp_path)

    def build(directory: Path) -> None:
        (directory / "half").write_text("half")
        raise RuntimeError("compiler died")

    with pytest.raises(RuntimeError, match="compiler died"):
        store.fetch("thing", "d1", build)
    assert not store.path("thing", "d1").exists()
    assert list((tmp_path / "tmp").iterdir()) == []


def test_what_a_killed_builder_left_is_not_mistaken_for_an_entry(tmp_path: Path) -> None:
    store = Store(tmp_path)
    leftover = tmp_path / "tmp" / "thing-d1"
    leftover.mkdir(parents=True)
    (leftover / "half").write_text("half")
    entry = store.fetch("thing", "d1", lambda directory: (directory / "whole").touch())
    assert (entry / "whole").exists()
    assert not (entry / "half").exists()


def test_sweep_removes_the_least_recently_used_first(tmp_path: Path) -> None:
    store = Store(tmp_path)

    def build(directory: Path) -> None:
        (directory / "x").write_bytes(b"x" * 4096)

    for age, name in enumerate(["old", "mid", "new"]):
        entry = store.fetch("thing", name, build)
        os.utime(entry / ".last-used", (1000 + age, 1000 + age))
    assert [entry.digest for entry in store.sweep(2 * 4096)] == ["old"]
    assert {entry.digest for entry in store.entries()} == {"mid", "new"}


def test_an_entry_that_goes_while_they_are_listed_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)
    for name in ("a", "b"):
        store.fetch("thing", name, lambda directory: (directory / "x").touch())

    def vanish(directory: Path) -> int:
        if directory.name == "a":
            raise FileNotFoundError(directory)
        return 1

    monkeypatch.setattr("harness.base.store.tree_size", vanish)
    assert [entry.digest for entry in store.entries()] == ["b"]


def test_digest_does_not_depend_on_key_order() -> None:
    assert digest_of({"a": 1, "b": 2}) == digest_of({"b": 2, "a": 1})
    assert digest_of("ab", "c") != digest_of("a", "bc")
