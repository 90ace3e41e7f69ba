# SPDX-License-Identifier: MIT
"""Parquet files of a run: columns, and what is known of them as a whole in the file's metadata."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from harness.base.reader import FileType, parse_json
from harness.base.status import PreconditionError, UsageError
from harness.record.rundir import plain

Array = npt.NDArray[Any]
ROWS_AT_ONCE = 1 << 20
"""Rows of a row group, and of a reader's batch: some 60 MB."""
_KEY = b"cvm_harness"
_Facts = TypeVar("_Facts", bound=FileType)


def metadata(facts: FileType) -> dict[bytes, bytes]:
    """`facts` as a file's metadata has them."""
    return {_KEY: json.dumps(plain(facts)).encode()}


def facts_in(found: dict[bytes, bytes] | None, kind: type[_Facts], path: Path) -> _Facts:
    """Raises KeyError where there are none, UsageError where they are no `kind`."""
    return parse_json((found or {})[_KEY], kind, str(path))


class ColumnFile(Generic[_Facts]):
    """A file on disk, read a bounded batch of columns at a time."""

    def __init__(self, path: Path, schema: pa.Schema, facts: type[_Facts], what: str) -> None:
        """Raises PreconditionError where `path` is no file of `what`."""
        try:
            self._file = pq.ParquetFile(path, memory_map=True)
            self.facts = facts_in(self._file.metadata.metadata, facts, path)
        except (OSError, pa.ArrowException, KeyError, UsageError) as error:
            raise PreconditionError(f"{path} cannot be read as {what}: {error}") from error
        if self._file.schema_arrow.names != schema.names:
            raise PreconditionError(f"{path} has not the columns of {what}")
        self.path = path
        self.rows: int = self._file.metadata.num_rows

    def record_batches(self, *columns: str) -> Iterator[pa.RecordBatch]:
        """The given columns, texts as dictionaries, a batch of rows at a time."""
        yield from self._file.iter_batches(ROWS_AT_ONCE, columns=list(columns))

    def batches(self, *columns: str) -> Iterator[dict[str, Array]]:
        """The same as arrays."""
        for batch in self.record_batches(*columns):
            yield {name: _array(batch.column(name)) for name in columns}


def _array(column: pa.Array) -> Array:
    if isinstance(column, pa.DictionaryArray):
        names = np.array(column.dictionary.to_pylist(), dtype=object)
        return np.asarray(names[column.indices.to_numpy(zero_copy_only=False)])
    return np.asarray(column.to_numpy(zero_copy_only=False))
