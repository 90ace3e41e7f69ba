# SPDX-License-Identifier: MIT
"""The place of a call in a kernel's code, and probes there; kernels that take no probe at all."""

import struct
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from harness.base.spec import GuestSpec, TargetName
from harness.base.status import PreconditionError
from harness.collect.call_site import CALL_SIZE, call_site, file_offset, find_call
from harness.collect.plan import Collect, TraceMode
from harness.collect.probes import (
    ProbeTrace,
    accept_trace,
    platform_probes,
    probes_at_call,
    probes_of,
)
from harness.targets.registry import target_for

TEXT = 0xFFFFFFFF81000000
CALLER, CALLEE = TEXT + 0xA21500, TEXT + 0x8740
OFFSET = 650
BASE = 0x7FFF81002000
"""Where the kernel's text is in this kcore."""


def code_with_call(offset: int = OFFSET) -> bytes:
    call = b"\xe8" + struct.pack("<i", CALLEE - (CALLER + offset + CALL_SIZE))
    return b"\x90" * offset + call + b"\xe8\0\0\0\0" + b"\x90" * 50


def kcore_headers(*segments: tuple[int, int, int]) -> bytes:
    """An ELF64 header with a note and (offset, address, size) of each segment."""
    rows = [(4, 0, 0, 0), *((1, *segment) for segment in segments)]
    header = b"\x7fELF\2\1\1" + bytes(9)
    header += struct.pack("<HHIQQQIHHHHHH", 4, 62, 1, 0, 64, 0, 0, 64, 56, len(rows), 0, 0, 0)
    for kind, offset, address, size in rows:
        header += struct.pack("<IIQQQQQQ", kind, 7, offset, address, 0, size, size, 4096)
    return header


HEADERS = kcore_headers((0x3000, 0xFFFF888000000000, 1 << 30), (BASE, TEXT, 64 << 20))


def test_the_first_call_of_the_callee_is_found() -> None:
    code = code_with_call()
    assert find_call(code, CALLER, CALLEE) == OFFSET
    assert find_call(code, CALLER, CALLEE + 1) is None
    assert find_call(code, CALLER, CALLER + OFFSET + 2 * CALL_SIZE) == OFFSET + CALL_SIZE
    assert find_call(code[: OFFSET + CALL_SIZE - 1], CALLER, CALLEE) is None
    assert find_call(b"", CALLER, CALLEE) is None


@given(st.binary(max_size=300), st.integers(0, 100))
def test_calls_among_any_bytes(noise: bytes, offset: int) -> None:
    code = noise[:offset] + code_with_call(len(noise[:offset]))[len(noise[:offset]) :]
    found = find_call(code, CALLER, CALLEE)
    assert found is not None
    (distance,) = struct.unpack_from("<i", code, found + 1)
    assert CALLER + found + CALL_SIZE + distance == CALLEE


def test_an_address_is_where_its_segment_says() -> None:
    assert file_offset(HEADERS, CALLER) == BASE + CALLER - TEXT
    assert file_offset(HEADERS, 0xFFFF888000001000) == 0x4000
    assert file_offset(HEADERS, TEXT + (64 << 20)) is None
    assert file_offset(b"\x7fELF\1\1" + HEADERS[6:], CALLER) is None


@given(st.binary(max_size=400), st.integers(0, (1 << 64) - 1))
@example(HEADERS[:56] + b"\xff\xff" + HEADERS[58:], CALLER)
@example(HEADERS[:32] + b"\xff" * 8 + HEADERS[40:], CALLER)
@example(HEADERS[:100], CALLER)
def test_no_headers_make_the_reader_fail(data: bytes, address: int) -> None:
    file_offset(data, address)
    file_offset(HEADERS[:64] + data, address)


class FakeGuest:
    """Answers shell commands; `takes` says which lines of dynamic_events its kernel takes."""

    def __init__(self, takes: Callable[[str], bool]) -> None:
        self.takes = takes
        self.defined: list[str] = []

    def run(self, command: str | Sequence[str], **_: Any) -> Any:
        text = command if isinstance(command, str) else " ".join(command)
        out, status = b"", 0
        if "/proc/kallsyms" in text:
            names = ((CALLEE, "snp_accept_memory"), (CALLER, "accept_memory"), (7, "accept_mem"))
            out = "".join(f"{at:016x} T {name}\n" for at, name in names).encode()
        elif "dd if=/proc/kcore" in text:
            words = dict(word.split("=") for word in text.split() if "=" in word)
            start = int(words["skip"]) * 4096
            at = BASE + CALLER - TEXT
            memory = HEADERS if not start else bytes(at - start) + code_with_call()
            out = memory[: int(words["count"]) * 4096]
        elif "test -e" in text:
            status = 1
        elif "'-:" not in text:
            lines = [part.split("'")[0] for part in text.split("echo '")[1:]]
            status = 0 if all(map(self.takes, lines)) else 1
            self.defined += lines if not status else []
        return SimpleNamespace(stdout=out, text=out.decode("latin-1"), exit_status=status)


def test_the_site_is_read_in_the_guest() -> None:
    assert (
        call_site(cast(Any, FakeGuest(lambda line: True)), "accept_memory", "snp_accept_memory")
        == OFFSET
    )


def test_where_the_platforms_function_takes_none_probes_are_put_where_it_is_called() -> None:
    guest = FakeGuest(lambda line: " snp_accept_memory" not in line)
    ProbeTrace(cast(Any, guest), TargetName.SNP).define()
    call, back = (probe.name for probe in platform_probes(target_for(TargetName.SNP)))
    assert guest.defined == [
        "f:cvm/call0 accept_memory start=$arg1:u64 size=$arg2:u64",
        "f:cvm/return0 accept_memory%return",
        f"p:cvm/{call} accept_memory+0x28a start=%di:u64 end=%si:u64",
        f"p:cvm/{back} accept_memory+0x28f",
    ]


def test_probes_at_a_call_keep_their_names_and_kinds() -> None:
    usual = probes_of(1, "tdx_accept_memory", True)
    moved = probes_at_call(usual, "accept_memory", 16)
    assert [(p.kind, p.name) for p in moved] == [(p.kind, p.name) for p in usual]
    assert [p.offset for p in moved] == [16, 16 + CALL_SIZE]


def test_a_kernel_that_takes_no_probe_runs_untraced_unless_probes_are_asked_for() -> None:
    guest = cast(Any, FakeGuest(lambda line: False))
    refused: list[str] = []
    spec = GuestSpec(TargetName.EMULATED)
    assert accept_trace(guest, spec, Collect(), refused.append) is None
    assert "takes neither fprobes nor kprobes" in refused[0]
    probes = accept_trace(guest, spec, Collect(trace=TraceMode.PROBES), refused.append)
    assert isinstance(probes, ProbeTrace)
    with pytest.raises(PreconditionError, match="unaccepted_emulation_accept"):
        probes.begin(16, None)
    assert len(refused) == 1
