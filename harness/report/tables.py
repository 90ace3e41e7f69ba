# SPDX-License-Identifier: MIT
"""The figures of many runs as one table, for spreadsheets, data frames and change detection."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from harness.analysis.metrics import METRICS, Better, metrics_of
from harness.base.status import UsageError
from harness.compare.history import configuration
from harness.compare.index import Row, row_of
from harness.record.view import RunView

_FACTS: dict[str, pa.DataType] = {
    "duration_s": pa.float64(),
    "memory_bytes": pa.int64(),
    "vcpus": pa.int64(),
}
_DIRECTIONS = {Better.LOWER: -1, Better.HIGHER: 1, Better.NEITHER: 1}


def metric_table(runs: Sequence[RunView]) -> pa.Table:
    """One row a run: what it was, then a column for every metric, null where it has none.

    Units and meanings are in the schema's metadata.
    """
    names = [field.name for field in dataclasses.fields(Row)]
    facts = [pa.field(name, _FACTS.get(name, pa.string())) for name in names]
    metrics = [
        pa.field(m.name, pa.float64(), metadata={"unit": m.unit, "meaning": m.meaning})
        for m in METRICS
    ]
    rows = [dataclasses.asdict(row_of(run)) | metrics_of(run) for run in runs]
    return pa.Table.from_pylist(rows, schema=pa.schema(facts + metrics))


def to_csv(table: pa.Table) -> bytes:
    """CSV with a header."""
    out = io.BytesIO()
    pyarrow.csv.write_csv(table, out)
    return out.getvalue()


def to_parquet(table: pa.Table) -> bytes:
    """A Parquet file."""
    out = io.BytesIO()
    pyarrow.parquet.write_table(table, out, compression="zstd")
    return out.getvalue()


def write_otava(runs: Sequence[RunView], directory: Path) -> None:
    """Input for Apache Otava in `directory`: otava.yaml and a CSV for each configuration.

    `otava analyze` then takes the tests by name. Only metrics that every run of a configuration has
    are in it: Otava knows no missing value. Raises UsageError where `directory` holds something.
    """
    if directory.exists() and any(directory.iterdir()):
        raise UsageError(f"{directory} is not empty", hint="name a new directory")
    directory.mkdir(parents=True, exist_ok=True)
    groups: dict[str, list[RunView]] = {}
    for run in runs:
        groups.setdefault(configuration(row_of(run)), []).append(run)
    tests = {}
    for number, (name, group) in enumerate(sorted(groups.items()), start=1):
        values = [metrics_of(run) for run in group]
        shared = [m for m in METRICS if all(m.name in found for found in values)]
        file = directory.absolute() / f"series-{number}.csv"
        with file.open("w", newline="") as out:
            writer = csv.writer(out)
            writer.writerow(["time", "run", "kernel", *(m.name for m in shared)])
            for run, found in zip(group, values, strict=True):
                facts = [run.text("started_utc"), run.id, run.text("kernel", "release")]
                writer.writerow([*facts, *(repr(found[m.name]) for m in shared)])
        tests[f"series-{number}"] = {
            "type": "csv",
            "file": str(file),
            "time_column": "time",
            "attributes": ["run", "kernel"],
            "metrics": {
                m.name: {"column": m.name, "direction": _DIRECTIONS[m.better], "scale": 1}
                for m in shared
            },
            "tags": [name],
        }
    # JSON is YAML, and quotes whatever needs quoting.
    (directory / "otava.yaml").write_text(json.dumps({"tests": tests}, indent=1) + "\n")
