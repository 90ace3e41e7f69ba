# SPDX-License-Identifier: MIT
"""The time series of counters that the guest's `cvm sample` streams (docs/guest-image.md)."""

import itertools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from harness.base.reader import FileType
from harness.base.status import PreconditionError, UsageError
from harness.record.columns import facts_in, metadata

_NAME = re.compile(r"[A-Za-z0-9_.:-]{1,80}")
_END = re.compile(
    r"#end samples=(\d{1,12}) missed=(\d{1,12}) cpu_ns=(\d{1,18}) reason=([a-z-]{1,40})"
)
_ALWAYS = ("vmstat.nr_free_pages", "vmstat.nr_unaccepted")
"""Behind `full` in every sample."""
FILE = "vmstat.parquet"
STREAM = "vmstat.txt"
"""The stream as it comes; there only while a run is under way, or after one that broke."""
_MAX_COLUMNS = 2048


@dataclass(frozen=True)
class Samples:
    """One row a reading, one column a counter, in pages or KiB as the name says."""

    names: tuple[str, ...]
    values: npt.NDArray[np.int64]
    """Shape (samples, columns)."""
    missed: int
    """Ticks at which no reading could be made."""
    complete: bool
    """Whether the sampler's own closing line came, and agrees with what was read."""
    cpu_ns: int = 0
    """CPU time that the sampler used; 0 if its closing line did not come."""

    def column(self, name: str) -> npt.NDArray[np.int64]:
        """One counter over time. Raises PreconditionError where the kernel has none."""
        try:
            return self.values[:, self.names.index(name)]
        except ValueError:
            raise PreconditionError(f"the samples have no column {name!r}") from None


def parse_samples(lines: Iterable[str]) -> Samples:
    """The stream of `cvm sample`, one that was cut off up to its last whole line. Raises
    PreconditionError for anything that does not fit."""
    names: tuple[str, ...] = ()
    rows: list[Sequence[int]] = []
    missed = cpu_ns = always = 0
    complete = False
    for line in lines:
        if not line.endswith("\n"):
            break  # cut off in the middle of a line
        text = line[:-1]
        if complete:
            raise PreconditionError(f"the sampler went on after its end: {text[:100]!r}")
        if text.startswith("#columns "):
            if names:
                raise PreconditionError("the sampler named its columns twice")
            names = _columns(text)
            always = _always(names)
        elif text.startswith("#end"):
            match = _END.fullmatch(text)
            if not match:
                raise PreconditionError(f"unreadable end of the samples: {text[:100]!r}")
            if int(match[1]) != len(rows):
                raise PreconditionError(f"{match[1]} samples were sent, {len(rows)} came")
            missed, cpu_ns, complete = int(match[2]), int(match[3]), True
        else:
            rows.append(_row(text, names, always, rows))
    values = np.array(rows, dtype=np.int64).reshape(len(rows), len(names))
    return Samples(names, values, missed, complete, cpu_ns)


class _Facts(FileType, frozen=True):
    missed: int
    complete: bool
    cpu_ns: int


def write_samples(run_dir: Path, samples: Samples) -> None:
    """vmstat.parquet: the columns as the guest named them, 64-bit integers."""
    facts = _Facts(samples.missed, samples.complete, samples.cpu_ns)
    columns = [pa.array(samples.values[:, at]) for at in range(len(samples.names))]
    table = pa.table(columns, names=list(samples.names))
    table = table.replace_schema_metadata(metadata(facts))
    pq.write_table(table, run_dir / FILE, compression="zstd")


def read_samples(run_dir: Path) -> Samples | None:
    """A run's samples, of a run that broke its stream; None where it took none. Raises
    PreconditionError."""
    path, stream = run_dir / FILE, run_dir / STREAM
    if not path.exists():
        if not stream.exists():
            return None
        with stream.open(encoding="ascii", errors="replace", newline="\n") as lines:
            return parse_samples(lines)
    try:
        table = pq.read_table(path)
        facts = facts_in(table.schema.metadata, _Facts, path)
        columns = [table.column(name).to_numpy() for name in table.column_names]
        values = np.column_stack(columns).astype(np.int64, casting="safe")
        names = tuple(table.column_names)
        return Samples(names, values, facts.missed, facts.complete, facts.cpu_ns)
    except (OSError, pa.ArrowException, KeyError, TypeError, ValueError, UsageError) as error:
        raise PreconditionError(f"{path} cannot be read as samples: {error}") from error


def _columns(text: str) -> tuple[str, ...]:
    names = tuple(text.split()[1:])
    bad = [name for name in names if not _NAME.fullmatch(name)]
    if bad or not names or len(names) > _MAX_COLUMNS or len(set(names)) != len(names):
        raise PreconditionError(f"unusable column names from the sampler: {text[:100]!r}")
    return names


def _always(names: tuple[str, ...]) -> int:
    """How many leading columns every sample has; it may end after them."""
    at = names.index("full") + 1 if "full" in names else len(names)
    return at + sum(1 for _ in itertools.takewhile(_ALWAYS.__contains__, names[at:]))


def _row(
    text: str, names: tuple[str, ...], always: int, before: Sequence[Sequence[int]]
) -> list[int]:
    try:
        row = [int(word) for word in text.split(" ")]
    except ValueError:
        raise PreconditionError(f"not a sample: {text[:100]!r}") from None
    if before and len(row) == always < len(names) and row[names.index("full")] == 0:
        row += before[-1][len(row) :]  # what it did not read anew
    if len(row) != len(names) or any(not -(1 << 63) <= value < 1 << 63 for value in row):
        raise PreconditionError(f"a sample of {len(row)} numbers, {len(names)} were announced")
    return row
