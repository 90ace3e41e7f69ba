# SPDX-License-Identifier: MIT
"""platform.parquet: what a guest asked of its emulated platform, call by call, as QEMU saw it:
records of 64 bytes (target/i386/cgs/events.c and cgs.h in guest-images/qemu), stored in columns."""

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from harness.base.reader import FileType
from harness.base.status import PreconditionError
from harness.record.columns import ROWS_AT_ONCE, Array, ColumnFile, metadata

FILE = "platform.parquet"
STREAM = "platform.stream"
"""The raw stream in the run directory, until it is stored."""

MAGIC = b"CGSTCG1\0"
RECORD = np.dtype(
    [
        ("seq", "<u8"),
        ("time_ns", "<i8"),
        ("gpa", "<u8"),
        ("rip", "<u8"),
        ("npages", "<u4"),
        ("kind", "<u2"),
        ("vcpu", "<u2"),
        ("level", "u1"),
        ("before", "u1"),
        ("after", "u1"),
        ("flags", "u1"),
        ("result", "<u4"),
        ("code", "<u8"),
        ("aux", "<u8"),
    ]
)
HEADER = np.dtype(
    [
        ("magic", "S8"),
        ("record", "<u4"),
        ("platform", "<u4"),
        ("address_bit", "<u8"),
        ("wall_ns", "<u8"),
        ("rest", "V32"),
    ]
)
PLATFORMS = {1: "tdx", 2: "snp"}
_FORCED, _IMPLICIT = 1, 2
_LOW = np.uint64((1 << 32) - 1)
_NO_VCPU = 0xFFFF
_STATE_MASK = 3


class WitnessKind(enum.IntEnum):
    """Why there is a record: CgsEventKind in QEMU's cgs.h."""

    LAUNCH = 1
    """`npages` pending, `changed` private."""
    ACCEPT = 2
    TO_SHARED = 3
    """`were_pending` of the pages `changed` had never been accepted."""
    TO_PENDING = 4
    """Shared to private again, not accepted."""
    RESCIND = 5
    """Private to pending, by the guest."""
    VIOLATION = 6
    """`level` is the kind of it, `code` of the access, `changed` the linear address; `result` is
    what followed."""
    FAULT = 7
    """A defect was shown on purpose; `level` is its kind."""
    UNKNOWN_CALL = 8
    FATAL = 9
    RESTORE = 10
    """As LAUNCH, from a snapshot."""
    PLUG = 11
    UNPLUG = 12
    VCPU = 13
    """A vCPU was started, `changed` is its index."""


# In the order of the enumerations in qapi/cgs-tcg.json.
RESULTS = (
    "ok",
    "already",
    "size-mismatch",
    "busy",
    "invalid",
    "not-private",
    "refused",
    "partial",
)
POLICIES = ("stop", "inject", "report")
STATES = ("none", "pending", "private", "shared")

_NAME = pa.dictionary(pa.int8(), pa.string())
SCHEMA = pa.schema(
    [
        ("seq", pa.uint64()),
        ("time_ns", pa.int64()),
        ("kind", _NAME),
        ("vcpu", pa.int32()),
        ("gpa", pa.uint64()),
        ("npages", pa.uint32()),
        ("level", pa.uint8()),
        ("before", _NAME),
        ("after", _NAME),
        ("result", _NAME),
        ("forced", pa.bool_()),
        ("implicit", pa.bool_()),
        ("code", pa.uint64()),
        ("changed", pa.uint64()),
        ("were_pending", pa.uint64()),
        ("rip", pa.uint64()),
    ]
)
_KINDS = tuple(kind.name.lower().replace("_", "-") for kind in WitnessKind)
_MAX_STREAM = 1 << 30


class StreamFacts(FileType, frozen=True):
    """What is known of the stream as a whole; kept in the file's metadata."""

    platform: str
    """ "tdx" or "snp"."""
    address_bit: int
    """Mask of the shared bit or the C bit in guest-physical addresses."""
    wall_ns: int
    """Host's wall clock when the stream began, ns since 1970."""
    lost: int
    """Records that QEMU did not write, by the gaps in their numbers."""
    torn_bytes: int
    """Of an incomplete record at the end: QEMU was killed, or the disk was full."""


@dataclass(frozen=True)
class Stream:
    """A raw stream, not yet looked at record by record."""

    records: Array
    """Of RECORD."""
    facts: StreamFacts


def read_stream(path: Path) -> Stream:
    """The stream in a file. Raises PreconditionError where it cannot be believed, OSError."""
    size = path.stat().st_size
    if size < HEADER.itemsize:
        raise PreconditionError(f"{path} has {size} bytes: not even a stream's header")
    if size > _MAX_STREAM:
        raise PreconditionError(f"{path} has {size} bytes: more than a stream can have")
    header = np.fromfile(path, HEADER, 1)[0]
    # numpy strips trailing zeroes of a string.
    if bytes(header["magic"]) != MAGIC.rstrip(b"\0") or header["record"] != RECORD.itemsize:
        raise PreconditionError(f"{path} is not a stream of platform events of a known format")
    platform = PLATFORMS.get(int(header["platform"]))
    if platform is None:
        raise PreconditionError(f"{path} is of an unknown platform, number {header['platform']}")
    body = size - HEADER.itemsize
    count = body // RECORD.itemsize
    records = (
        np.memmap(path, RECORD, "r", HEADER.itemsize, (count,)) if count else np.zeros(0, RECORD)
    )
    _check(path, records)
    facts = StreamFacts(
        platform,
        int(header["address_bit"]),
        int(header["wall_ns"]),
        int(records["seq"][-1]) + 1 - count if count else 0,
        body % RECORD.itemsize,
    )
    return Stream(records, facts)


def _check(path: Path, records: Array) -> None:
    """Raises PreconditionError for values that no QEMU of ours writes."""
    if not records.size:
        return
    seq = records["seq"]
    if np.any(seq[1:] <= seq[:-1]) or int(seq[-1]) >= 1 << 62:
        raise PreconditionError(f"{path}: its records are not in the order of their numbers")
    kinds, results = records["kind"], records["result"]
    if int(kinds.min()) < 1 or int(kinds.max()) > len(WitnessKind):
        raise PreconditionError(f"{path} has a record of an unknown kind")
    most = np.where(kinds == WitnessKind.VIOLATION, len(POLICIES), len(RESULTS))
    if np.any(results >= most):
        raise PreconditionError(f"{path} has a record of an unknown result")


def store_stream(stream: Stream, path: Path) -> None:
    """platform.parquet from a stream."""
    with pq.ParquetWriter(
        path,
        SCHEMA.with_metadata(metadata(stream.facts)),
        compression="zstd",
        use_dictionary=["kind", "before", "after", "result"],
    ) as writer:
        for start in range(0, len(stream.records), ROWS_AT_ONCE):
            writer.write_table(_table(np.asarray(stream.records[start : start + ROWS_AT_ONCE])))


def _table(records: Array) -> pa.Table:
    violations = records["kind"] == WitnessKind.VIOLATION
    result = records["result"] + len(RESULTS) * violations
    aux = records["aux"]
    converted = records["kind"] == WitnessKind.TO_SHARED
    vcpu = records["vcpu"].astype(np.int32)
    vcpu[vcpu == _NO_VCPU] = -1
    columns = {
        **{name: records[name] for name in ("seq", "time_ns", "gpa", "npages", "level")},
        "kind": _named(records["kind"] - 1, _KINDS),
        "vcpu": vcpu,
        "before": _named(records["before"] & _STATE_MASK, STATES),
        "after": _named(records["after"] & _STATE_MASK, STATES),
        "result": _named(result, (*RESULTS, *POLICIES)),
        "forced": (records["flags"] & _FORCED) != 0,
        "implicit": (records["flags"] & _IMPLICIT) != 0,
        "code": records["code"],
        "changed": np.where(converted, aux & _LOW, aux),
        "were_pending": np.where(converted, aux >> np.uint64(32), 0).astype(np.uint64),
        "rip": records["rip"],
    }
    return pa.Table.from_pydict({name: columns[name] for name in SCHEMA.names}, SCHEMA)


def _named(numbers: Array, names: Sequence[str]) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(pa.array(numbers.astype(np.int8)), pa.array(names))


class PlatformEvents(ColumnFile[StreamFacts]):
    def __init__(self, path: Path) -> None:
        super().__init__(path, SCHEMA, StreamFacts, "platform events")
