# SPDX-License-Identifier: MIT
"""An SQLite index over run directories: a cache of run.json files, rebuilt from them at any time.

The run directories are the database of record. The index only saves reading a thousand small files
for one line of history; if it is missing, damaged or of another version it is made anew.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from harness.analysis.metrics import metrics_of
from harness.base.status import HostError, Status, UsageError
from harness.record.view import RunView, run_directories

FILE = ".index.sqlite"
_VERSION = 1
_SCHEMA = """
CREATE TABLE runs (
    id TEXT PRIMARY KEY, stamp TEXT NOT NULL, started_utc TEXT NOT NULL, duration_s REAL,
    status TEXT NOT NULL, cause TEXT NOT NULL, target TEXT NOT NULL, kernel TEXT NOT NULL,
    memory_bytes INTEGER, vcpus INTEGER, accept TEXT NOT NULL, accel TEXT NOT NULL,
    clock TEXT NOT NULL, cost TEXT NOT NULL, workload TEXT NOT NULL
) STRICT;
CREATE TABLE metrics (
    run TEXT NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
    name TEXT NOT NULL, value REAL NOT NULL, PRIMARY KEY (name, run)
) STRICT, WITHOUT ROWID;
CREATE TABLE unreadable (id TEXT PRIMARY KEY, stamp TEXT NOT NULL, why TEXT NOT NULL) STRICT;
"""


@dataclass(frozen=True)
class Row:
    """One run as the index knows it."""

    id: str
    started_utc: str
    duration_s: float | None
    status: str
    cause: str
    target: str
    kernel: str
    memory_bytes: int | None
    vcpus: int | None
    accept: str
    accel: str
    clock: str
    cost: str
    workload: str


_COLUMNS = tuple(field.name for field in fields(Row))


@dataclass(frozen=True)
class Filter:
    """Which runs are wanted; empty fields let all pass."""

    status: tuple[Status, ...] = ()
    target: str = ""
    kernel: str = ""
    """Part of the kernel release."""
    workload: str = ""
    accept: str = ""
    since: str = ""
    """First UTC day or moment, ISO 8601."""
    cause: str = ""
    """Part of the cause."""

    def where(self) -> tuple[str, list[str]]:
        """The SQL condition and its parameters."""
        terms, values = ["1"], []
        if self.status:
            terms.append(f"status IN ({','.join('?' * len(self.status))})")
            values += [status.value for status in self.status]
        for column in ("target", "workload", "accept"):
            if text := getattr(self, column):
                terms.append(f"{column} = ?")
                values.append(text)
        for column in ("kernel", "cause"):
            if text := getattr(self, column):
                terms.append(f"instr({column}, ?) > 0")
                values.append(text)
        if self.since:
            terms.append("started_utc >= ?")
            values.append(self.since)
        return " AND ".join(terms), values


@dataclass(frozen=True)
class Point:
    """One metric of one run."""

    row: Row
    value: float


class Index:
    """The index of one runs directory. Made by `open_index`."""

    def __init__(self, root: Path, database: sqlite3.Connection) -> None:
        self.root = root
        self._database = database

    def refresh(self) -> None:
        """Bring the index up to date: read what is new or changed, forget what is gone."""
        seen: dict[str, str] = {}
        for table in ("runs", "unreadable"):
            seen.update(self._database.execute(f"SELECT id, stamp FROM {table}"))
        present = set()
        with self._database:
            for path in run_directories(self.root):
                present.add(path.name)
                stamp = _stamp(path)
                if seen.get(path.name) != stamp:
                    self._forget(path.name)
                    self._take(path, stamp)
            for gone in seen.keys() - present:
                self._forget(gone)

    def runs(self, wanted: Filter = Filter(), limit: int = -1) -> list[Row]:
        """The runs that `wanted` lets pass, oldest first; the last `limit` of them."""
        where, values = wanted.where()
        query = (
            f"SELECT {','.join(_COLUMNS)} FROM runs WHERE {where} "
            "ORDER BY started_utc DESC, id DESC LIMIT ?"
        )
        rows = self._database.execute(query, [*values, limit]).fetchall()
        return [Row(*row) for row in reversed(rows)]

    def history(self, metric: str, wanted: Filter = Filter()) -> list[Point]:
        """The values of `metric`, oldest first."""
        where, values = wanted.where()
        query = (
            f"SELECT value, {','.join(_COLUMNS)} FROM metrics JOIN runs ON runs.id = metrics.run "
            f"WHERE name = ? AND {where} ORDER BY started_utc, id"
        )
        rows = self._database.execute(query, [metric, *values]).fetchall()
        return [Point(Row(*rest), value) for value, *rest in rows]

    def unreadable(self) -> list[tuple[str, str]]:
        """Directories that hold a run.json which cannot be read, and why."""
        return self._database.execute("SELECT id, why FROM unreadable ORDER BY id").fetchall()

    def _forget(self, name: str) -> None:
        self._database.execute("DELETE FROM runs WHERE id = ?", [name])
        self._database.execute("DELETE FROM unreadable WHERE id = ?", [name])

    def _take(self, path: Path, stamp: str) -> None:
        try:
            run = RunView.load(path)
        except UsageError as error:
            row = (path.name, stamp, error.cause)
            self._database.execute("INSERT INTO unreadable VALUES (?,?,?)", row)
            return
        marks = ",".join("?" * (len(_COLUMNS) + 1))
        columns = ",".join(_COLUMNS)
        values = astuple(row_of(run))
        self._database.execute(
            f"INSERT INTO runs ({columns},stamp) VALUES ({marks})", [*values, stamp]
        )
        self._database.executemany(
            "INSERT INTO metrics VALUES (?,?,?)",
            [(run.id, name, value) for name, value in metrics_of(run).items()],
        )


def row_of(run: RunView) -> Row:
    """What the index keeps of a run."""
    return Row(
        id=run.id,
        started_utc=run.text("started_utc"),
        duration_s=run.duration_s,
        status=run.status.value,
        cause=run.text("cause"),
        target=run.text("spec", "target"),
        kernel=run.text("kernel", "release") or run.text("kernel", "version"),
        memory_bytes=_integer(run.get("spec", "memory")),
        vcpus=_integer(run.get("spec", "vcpus")),
        accept=run.text("spec", "accept"),
        accel=run.text("spec", "accel"),
        clock=run.text("spec", "clock"),
        cost=run.text("spec", "emulation", "cost", "name"),
        workload=run.workload_name,
    )


@contextlib.contextmanager
def open_index(root: Path) -> Iterator[Index]:
    """The up-to-date index of the run directories in `root`.

    Raises UsageError where `root` is no directory. Where it cannot be written the index is made in
    memory.
    """
    if not root.is_dir():
        raise UsageError(f"{root} is not a directory of runs", hint="name the one with --runs DIR")
    database = _connect(root / FILE)
    try:
        index = Index(root, database)
        index.refresh()
        yield index
    except sqlite3.OperationalError as error:  # locked for long, disk full
        raise HostError(f"cannot use the index {root / FILE}: {error}") from error
    finally:
        database.close()


def _connect(path: Path) -> sqlite3.Connection:
    for _ in range(2):
        database = None
        try:
            database = sqlite3.connect(path, timeout=60)
            database.execute("PRAGMA foreign_keys = ON")
            (version,) = database.execute("PRAGMA user_version").fetchone()
            if version == _VERSION and _whole(database):
                return database
            database.close()
            path.unlink(missing_ok=True)  # another version, or damaged: it holds nothing of its own
            database = sqlite3.connect(path, timeout=60)
            database.execute("PRAGMA foreign_keys = ON")
            _create(database)
            return database
        except sqlite3.OperationalError:
            if database is not None:
                database.close()
            break  # cannot be written here
        except (sqlite3.DatabaseError, OSError):
            if database is not None:
                database.close()
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
    database = sqlite3.connect(":memory:")
    database.execute("PRAGMA foreign_keys = ON")
    _create(database)
    return database


def _create(database: sqlite3.Connection) -> None:
    database.executescript(f"{_SCHEMA} PRAGMA user_version = {_VERSION};")


def _whole(database: sqlite3.Connection) -> bool:
    (answer,) = database.execute("PRAGMA quick_check(1)").fetchone()
    return bool(answer == "ok")


def _stamp(path: Path) -> str:
    """Changes whenever run.json or workload.json does: both are replaced by rename."""
    parts = []
    for name in ("run.json", "workload.json"):
        try:
            stat = (path / name).stat()
        except OSError:
            continue
        parts.append(f"{stat.st_ino}.{stat.st_size}.{stat.st_mtime_ns}")
    return "/".join(parts)


def _integer(value: object) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int) or not -(1 << 63) <= value < 1 << 63:
        return None
    return value
