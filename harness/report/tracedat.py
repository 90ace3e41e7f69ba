# SPDX-License-Identifier: MIT
"""A run's accept events as a trace.dat of version 6 (trace-cmd.dat.v6(5); of its pages:
kernel/trace/ring_buffer.c, 6.12), made anew from events.parquet. Stamps: guest CLOCK_MONOTONIC."""

import io
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from harness.analysis.analyse import analyse
from harness.base.text import inert
from harness.record.events import FILE, SCHEMA, Events
from harness.record.view import RunView

_PAGE = 4096
_HEADER = 16
_EVENT_ID = 1000
_TIME_EXTEND = 30
_IRQS_OFF = 1
"""include/linux/trace_events.h, TRACE_FLAG_IRQS_OFF."""
_TEXT = 0xFFFFFFFF81000000
_SYMBOL_BYTES = 1 << 20
"""Room of each symbol: the run has names, not addresses, so these are made up."""

_PAGE_FORMAT = (
    ("u64 timestamp", 0, 8, 0),
    ("local_t commit", 8, 8, 1),
    ("int overwrite", 8, 1, 1),
    ("char data", _HEADER, _PAGE - _HEADER, 1),
)
_ENTRY_FORMAT = """\
# compressed entry header
\ttype_len    :    5 bits
\ttime_delta  :   27 bits
\tarray       :   32 bits

\tpadding     : type == 29
\ttime_extend : type == 30
\ttime_stamp : type == 31
\tdata max type_len  == 28
"""
_FIELDS = (
    ("unsigned short common_type", "common_type", "<u2"),
    ("unsigned char common_flags", "common_flags", "u1"),
    ("unsigned char common_preempt_count", "common_preempt_count", "u1"),
    ("int common_pid", "common_pid", "<i4"),
    ("u64 start", "start", "<u8"),
    ("u64 end", "end", "<u8"),
    ("u64 duration_ns", "duration_ns", "<u8"),
    ("u64 wait_ns", "wait_ns", "<u8"),
    ("unsigned long caller", "caller", "<u8"),
    ("unsigned int units", "units", "<u4"),
    ("u8 first", "first", "u1"),
    ("u8 irqs_off", "irqs_off", "u1"),
    ("u16 padding", "padding", "<u2"),
)
_PRINT = (
    '"start=0x%llx end=0x%llx units=%u first=%u duration_ns=%llu wait_ns=%llu irqs_off=%u '
    'caller=%pS", REC->start, REC->end, REC->units, REC->first, REC->duration_ns, REC->wait_ns, '
    "REC->irqs_off, (void *)REC->caller"
)
_PAYLOAD = np.dtype([(name, form) for _, name, form in _FIELDS])
# Each event comes with a time extend of its own, so that all are of one size.
_RECORD = np.dtype([("extend", "<u4"), ("high", "<u4"), ("header", "<u4"), ("event", _PAYLOAD)])
_PER_PAGE = (_PAGE - _HEADER) // _RECORD.itemsize


def write_trace_dat(view: RunView, path: Path) -> None:
    """Raises PreconditionError for a run that has not finished or has no events."""
    analyse(view.path)  # a run whose figures do not hold together is not passed on
    names = _Names()
    pages = {cpu: b"".join(found) for cpu, found in _cpus(view.path / FILE, names).items()}
    head = io.BytesIO()
    _write_head(head, names, max(pages, default=0) + 1)
    with path.open("wb") as out:
        out.write(head.getvalue())
        _write_pages(out, pages, max(pages, default=0) + 1)


@dataclass
class _Names:
    """What numbers in the pages stand for."""

    comms: dict[int, str] = field(default_factory=dict)
    symbols: dict[str, int] = field(default_factory=dict)

    def address(self, caller: str) -> int:
        """Of "symbol+0xoffset/0xsize"."""
        symbol, _, rest = caller.partition("+")
        number = self.symbols.setdefault(symbol, len(self.symbols))
        offset = int(rest.partition("/")[0], 16) if rest.startswith("0x") else 0
        return _TEXT + number * _SYMBOL_BYTES + offset % _SYMBOL_BYTES

    def kallsyms(self) -> bytes:
        # A symbol ends where the next begins, so there is one more.
        return b"".join(
            f"{_TEXT + number * _SYMBOL_BYTES:016x} t {inert(symbol)}\n".encode()
            for number, symbol in enumerate([*self.symbols, "_etext"])
        )

    def cmdlines(self) -> bytes:
        return b"".join(f"{pid} {inert(comm)}\n".encode() for pid, comm in self.comms.items())


def _cpus(path: Path, names: _Names) -> dict[int, list[bytes]]:
    """CPU -> its pages. Events come in order of CPU, then time."""
    found: dict[int, list[bytes]] = {}
    for batch in Events(path).record_batches(*SCHEMA.names):
        cpus = batch.column("cpu").to_numpy(zero_copy_only=False)
        events = _events(batch, names)
        stamps = batch.column("time_ns").to_numpy(zero_copy_only=False).astype(np.uint64)
        for cpu in np.unique(cpus):
            mine = cpus == cpu
            found.setdefault(int(cpu), []).extend(_pages(events[mine], stamps[mine]))
    return found


def _events(batch: pa.RecordBatch, names: _Names) -> npt.NDArray[np.void]:
    events = np.zeros(batch.num_rows, _PAYLOAD)
    columns = {name: batch.column(name) for name in batch.schema.names}
    renamed = {"common_pid": "pid", "start": "start_phys", "end": "end_phys"}
    for ours in (*renamed, "duration_ns", "wait_ns", "units", "first", "irqs_off"):
        events[ours] = columns[renamed.get(ours, ours)].to_numpy(zero_copy_only=False)
    events["common_type"] = _EVENT_ID
    events["common_flags"] = np.where(events["irqs_off"], _IRQS_OFF, 0)
    callers = columns["caller"]
    addresses = [names.address(caller) for caller in callers.dictionary.to_pylist()]
    events["caller"] = np.array(addresses, np.uint64)[callers.indices.to_numpy()]
    pids, rows = np.unique(events["common_pid"], return_index=True)
    comms = columns["comm"].take(pa.array(rows)).to_pylist()
    names.comms.update(zip(pids.tolist(), comms, strict=True))
    return events


def _pages(events: npt.NDArray[np.void], stamps: npt.NDArray[np.uint64]) -> Iterator[bytes]:
    for start in range(0, len(events), _PER_PAGE):
        some, times = events[start : start + _PER_PAGE], stamps[start : start + _PER_PAGE]
        records = np.zeros(len(some), _RECORD)
        delta = np.diff(times, prepend=times[:1])
        records["extend"] = (delta & np.uint64((1 << 27) - 1)) << np.uint64(5) | _TIME_EXTEND
        records["high"] = delta >> np.uint64(27)
        records["header"] = _PAYLOAD.itemsize // 4  # type_len in words, and no more delta
        records["event"] = some
        data = struct.pack("<QQ", int(times[0]), records.nbytes) + records.tobytes()
        yield data.ljust(_PAGE, b"\0")


def _write_head(out: BinaryIO, names: _Names, cpus: int) -> None:
    out.write(b"\x17\x08\x44tracing6\0" + struct.pack("<BBI", 0, 8, _PAGE))
    page = "".join(_field(*row) for row in _PAGE_FORMAT)
    for name, text in (("header_page", page), ("header_event", _ENTRY_FORMAT)):
        out.write(name.encode() + b"\0" + _sized("<Q", text.encode()))
    out.write(struct.pack("<I", 0))  # no formats of ftrace's own events
    out.write(struct.pack("<I", 1) + b"unaccepted_memory\0" + struct.pack("<I", 1))
    out.write(_sized("<Q", _event_format().encode()))
    out.write(_sized("<I", names.kallsyms()))
    out.write(_sized("<I", b""))  # trace_printk's formats
    out.write(_sized("<Q", names.cmdlines()))
    out.write(struct.pack("<I", cpus))


def _write_pages(out: BinaryIO, pages: Mapping[int, bytes], cpus: int) -> None:
    """The last part: where each CPU's pages are, and these, on page boundaries."""
    out.write(b"flyrecord\0")
    at = -(-(out.tell() + 16 * cpus) // _PAGE) * _PAGE
    for cpu in range(cpus):
        size = len(pages.get(cpu, b""))
        out.write(struct.pack("<QQ", at, size))
        at += size
    out.write(b"\0" * (-out.tell() % _PAGE))
    for cpu in range(cpus):
        out.write(pages.get(cpu, b""))


def _event_format() -> str:
    rows = []
    for kind, name, _ in _FIELDS:
        form, offset = _PAYLOAD.fields[name][:2]  # type: ignore[index]
        rows.append(_field(kind, offset, form.itemsize, int(form.kind == "i")))
        if name == "common_pid":
            rows.append("\n")
    body = "".join(rows)
    return f"name: accept_memory\nID: {_EVENT_ID}\nformat:\n{body}\nprint fmt: {_PRINT}\n"


def _field(declaration: str, offset: int, size: int, signed: int) -> str:
    return f"\tfield:{declaration};\toffset:{offset};\tsize:{size};\tsigned:{signed};\n"


def _sized(form: str, data: bytes) -> bytes:
    return struct.pack(form, len(data)) + data
