# SPDX-License-Identifier: MIT
"""The figures of many runs as one table, for spreadsheets, data frames and change detection."""

import dataclasses
import io
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from harness.analysis.metrics import METRICS, metrics_of
from harness.compare.index import Row, row_of
from harness.record.view import RunView

_FACTS: dict[str, pa.DataType] = {
    "duration_s": pa.float64(),
    "memory_bytes": pa.int64(),
    "vcpus": pa.int64(),
}


def metric_table(runs: Sequence[RunView]) -> pa.Table:
    """One row a run: what it was, then a column for every metric, null where it has none. Units and
    meanings are in the schema's metadata."""
    names = [field.name for field in dataclasses.fields(Row)]
    facts = [pa.field(name, _FACTS.get(name, pa.string())) for name in names]
    metrics = [
        pa.field(m.name, pa.float64(), metadata={"unit": m.unit, "meaning": m.meaning})
        for m in METRICS
    ]
    rows = [dataclasses.asdict(row_of(run)) | metrics_of(run) for run in runs]
    return pa.Table.from_pylist(rows, schema=pa.schema(facts + metrics))


def to_csv(table: pa.Table) -> bytes:
    out = io.BytesIO()
    pyarrow.csv.write_csv(table, out)
    return out.getvalue()


def to_parquet(table: pa.Table) -> bytes:
    out = io.BytesIO()
    pyarrow.parquet.write_table(table, out, compression="zstd")
    return out.getvalue()
