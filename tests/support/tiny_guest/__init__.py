# SPDX-License-Identifier: MIT
"""A guest of a few hundred instructions on the emulated TDX and SEV-SNP platforms.

It runs what a test gives it, an instruction at a time, on any of its vCPUs, and says what became of
the registers or which exception came (guest.S). Its memory is a file that the test maps: operations
go through pages that the guest shares, and the test sees what any page really holds.
"""

import contextlib
import dataclasses
import functools
import json
import mmap
import os
import socket
import struct
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from harness.targets.snp import TCG_CPU_MODEL as SNP_CPU
from harness.targets.tdx import TCG_CPU_MODEL as TDX_CPU

MIB = 1 << 20
PAGE = 4096
SHARED_BIT = 1 << 51
"""Of a TDX guest's addresses, as it asks for 52 bits of them; the C bit of SNP is the same bit."""
SHARED = 512 << 30
"""Added to an address: where the guest has mapped it as shared."""
IMAGE_SIZE = 64 << 10
IMAGE_AT = (4 << 30) - IMAGE_SIZE
HOB_AT, HOB_SIZE = 0x809000, 0x2000
SECRETS_AT, CPUID_AT = 0x80D000, 0x80E000
MAILBOXES, MAILBOX_SIZE = 16 * MIB, 64 << 10
MAX_VCPUS = 4
DEADLINE_S = 15.0
_SOURCE = Path(__file__).with_name("guest.S")
_OP_SIZE = 256
_OPS = MAILBOX_SIZE // _OP_SIZE - 1

KERNEL64, KERNEL32, USER64 = 0x08, 0x18, 0x2B
"""Code segments to run an operation in."""
REGISTERS = (
    *("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi"),
    *(f"r{number}" for number in range(8, 16)),
)
DONE = 0x40
"""The vector of the instruction that ends an operation: no exception came."""
UD, DF, GP, PF, VE, VC = 6, 8, 13, 14, 20, 29

TDCALL = bytes.fromhex("660f01cc")
PVALIDATE = bytes.fromhex("f20f01ff")
RMPADJUST = bytes.fromhex("f30f01fe")
VMGEXIT = bytes.fromhex("f30f01d9")
CPUID = bytes.fromhex("0fa2")
RDMSR = bytes.fromhex("0f32")
WRMSR = bytes.fromhex("0f30")
LOAD = bytes.fromhex("488b10")  # mov (%rax), %rdx
STORE = bytes.fromhex("488910")  # mov %rdx, (%rax)
CALL = bytes.fromhex("ffd0")  # call *%rax


@dataclass(frozen=True)
class Op:
    """Instructions, and the registers that they start with."""

    code: bytes
    registers: Mapping[str, int] = dataclasses.field(default_factory=dict)
    segment: int = KERNEL64

    def packed(self) -> bytes:
        """As the guest reads it."""
        code = self.code + b"\xcd\x40"
        assert len(code) <= 64
        values = (self.registers.get(name, 0) for name in REGISTERS)
        head = struct.pack("<64sQ3QQQ", code, self.segment, 0, 0, 0, 2, 0)
        return (head + struct.pack("<16Q", *values)).ljust(_OP_SIZE, b"\0")


@dataclass(frozen=True)
class Result:
    """What became of an operation."""

    vector: int
    error: int
    cr2: int
    rflags: int
    rip: int
    registers: Mapping[str, int]

    def __getattr__(self, name: str) -> int:
        try:
            return self.registers[name]
        except KeyError:
            raise AttributeError(name) from None

    @property
    def carry(self) -> bool:
        """RFLAGS.CF, which PVALIDATE sets where it changed nothing."""
        return bool(self.rflags & 1)

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        """From the guest's page."""
        vector, error, cr2, rflags, rip = struct.unpack_from("<5Q", raw, 0x48)
        registers = struct.unpack_from("<16Q", raw, 0x70)
        return cls(vector, error, cr2, rflags, rip, dict(zip(REGISTERS, registers, strict=True)))


def op(code: bytes, **registers: int) -> Op:
    """Instructions with the registers that they need."""
    return Op(code, registers)


def tdcall(leaf: int, **registers: int) -> Op:
    """TDCALL; `leaf` is all of RAX."""
    return op(TDCALL, rax=leaf, **registers)


def vmcall(function: int, **registers: int) -> Op:
    """TDG.VP.VMCALL, which gives R10 to R15 to the host."""
    return tdcall(0, rcx=0xFC00, r11=function, **registers)


def assemble(text: str, directory: Path) -> bytes:
    """Machine code of a few instructions, in AT&T syntax."""
    made, flat = directory / "code.o", directory / "code.bin"
    compiler = ["gcc", "-c", "-x", "assembler", "-", "-o", str(made)]
    subprocess.run(compiler, input=text.encode(), check=True)
    subprocess.run(["objcopy", "-O", "binary", "-j", ".text", made, flat], check=True)
    return flat.read_bytes()


class GuestStoppedError(Exception):
    """The platform stopped the guest; `data` is its event's."""

    def __init__(self, event: Mapping[str, Any]) -> None:
        super().__init__(json.dumps(event)[:2000])
        self.name: str = event["event"]
        self.data: Mapping[str, Any] = event["data"]


class TinyGuest:
    """A running guest; a context manager, which ends QEMU."""

    def __init__(
        self,
        qemu: Path,
        platform: str,
        directory: Path,
        *,
        vcpus: int = 1,
        memory: int = 64 * MIB,
        properties: Mapping[str, object] | None = None,
        accel: str = "tcg,thread=multi",
        more: Sequence[str] = (),
        state: Path | None = None,
    ) -> None:
        """Starts the guest, or with `state` loads it and leaves it stopped."""
        self.platform = platform
        self.vcpus = vcpus
        self.directory = directory
        self.memory = memory
        self.events: list[Mapping[str, Any]] = []
        directory.mkdir(parents=True, exist_ok=True)
        image = directory / f"{platform}.fd"
        image.write_bytes(firmware(platform))
        self._ram = _memory_file(directory / "ram", memory)
        ours, theirs = socket.socketpair()
        self._log = (directory / "qemu.log").open("wb")
        cpu, machine = (TDX_CPU, ",hpet=off") if platform == "tdx" else (SNP_CPU, "")
        given = {"qom-type": f"{platform}-tcg-guest", "id": "cgs0", **(properties or {})}
        self._process = subprocess.Popen(
            [
                *(str(qemu), "-nodefaults", "-no-user-config", "-display", "none"),
                *("-accel", accel, "-cpu", cpu, "-smp", str(vcpus), "-m", f"{memory // MIB}M"),
                "-machine",
                "q35,confidential-guest-support=cgs0,memory-backend=ram0,smm=off,vmport=off,"
                f"sata=off{machine}",
                "-object",
                f"memory-backend-file,id=ram0,size={memory},mem-path={directory}/ram,share=on",
                *("-object", json.dumps(given), "-bios", str(image)),
                *("-chardev", f"socket,id=qmp,fd={theirs.fileno()}"),
                *("-mon", "chardev=qmp,mode=control"),
                *(("-incoming", "defer") if state else ()),
                *more,
            ],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
        )
        theirs.close()
        self._socket = ours
        self._socket.settimeout(DEADLINE_S)
        self._lines = self._socket.makefile("r", encoding="utf-8")
        try:
            self._come_up(state)
        except BaseException:
            self.close()
            raise

    def _come_up(self, state: Path | None) -> None:
        self._read()
        self.execute("qmp_capabilities")
        if state:
            self.execute("migrate-incoming", uri=f"file:{state}")
            self._until(lambda: self.execute("query-status")["status"] in ("paused", "running"))
            return
        for vcpu in range(self.vcpus if self.platform == "tdx" else 1):
            self._until(functools.partial(self._ready, vcpu))

    # Operations.

    def run(self, *ops: Op, vcpu: int = 0) -> list[Result]:
        """Have a vCPU run operations; raises GuestStoppedError if the platform stops the guest."""
        found: list[Result] = []
        for first in range(0, len(ops), _OPS):
            part = ops[first : first + _OPS]
            self.start(part, vcpu)
            found += self.finish(len(part), vcpu)
        return found

    def one(self, operation: Op, vcpu: int = 0) -> Result:
        """Run one."""
        return self.run(operation, vcpu=vcpu)[0]

    def start(self, ops: Sequence[Op], vcpu: int = 0) -> None:
        """Let a vCPU begin."""
        at = self._mailbox(vcpu)
        for index, operation in enumerate(ops):
            place = at + _OP_SIZE * (index + 1)
            self._ram[place : place + _OP_SIZE] = operation.packed()
        self._ram[at : at + 8] = struct.pack("<Q", len(ops))

    def finish(self, count: int, vcpu: int = 0) -> list[Result]:
        """Wait for what was started."""
        at = self._mailbox(vcpu)
        self._until(lambda: not any(self._ram[at : at + 8]))
        places = (at + _OP_SIZE * (index + 1) for index in range(count))
        return [Result.parse(self._ram[place : place + _OP_SIZE]) for place in places]

    def start_others(self) -> None:
        """SNP: start all other vCPUs by INIT and SIPI, through the x2APIC."""
        self.run(
            op(WRMSR, rcx=0x1B, rax=0xFEE00D00),
            op(WRMSR, rcx=0x830, rax=0xC4500),
            op(WRMSR, rcx=0x830, rax=0xC4600),
        )
        for vcpu in range(1, self.vcpus):
            self._until(functools.partial(self._ready, vcpu))

    def wake(self, count: int, vcpu: int) -> list[Result]:
        """SNP: send SIPIs until a vCPU that is held, or about to be, has done what it began."""
        at = self._mailbox(vcpu)
        while any(self._ram[at : at + 8]):
            self.one(op(WRMSR, rcx=0x830, rax=0xC4600))
        return self.finish(count, vcpu)

    def wait(self, condition: Callable[[Mapping[str, Any]], bool]) -> None:
        """Until the platform's statistics are so."""
        self._until(lambda: condition(self.statistics()))

    def stopped(self) -> GuestStoppedError:
        """Wait for the platform to stop the guest."""
        try:
            self._until(lambda: False)
        except GuestStoppedError as stopped:
            return stopped
        raise AssertionError("never")

    # Memory, and the platform's state.

    def read(self, gpa: int, size: int = PAGE) -> bytes:
        """What a page really holds."""
        return bytes(self._ram[gpa : gpa + size])

    def write(self, gpa: int, data: bytes) -> None:
        """Write into the guest's memory, past all checks."""
        self._ram[gpa : gpa + len(data)] = data

    def states(self) -> dict[int, tuple[str, int]]:
        """Address of each page that has memory -> its state and the platform's bits."""
        return {
            run["gpa"] + PAGE * page: (run["state"], run["bits"])
            for run in self.execute("query-cgs-tcg-pages")
            for page in range(run["npages"])
        }

    def statistics(self) -> dict[str, Any]:
        """Of the platform; without what is the process's own."""
        answer: dict[str, Any] = self.execute("query-cgs-tcg")
        return answer

    def set(self, name: str, value: object) -> None:
        """A property of the platform's object."""
        self.execute("qom-set", path="/objects/cgs0", property=name, value=value)

    def save(self, state: Path) -> None:
        """Stop the guest and save it to a file."""
        self.execute("stop")
        self.execute("migrate", uri=f"file:{state}")
        self._until(lambda: self.execute("query-migrate").get("status") in ("completed", "failed"))
        answer = self.execute("query-migrate")
        assert answer["status"] == "completed", answer

    # QMP.

    def execute(self, command: str, **arguments: object) -> Any:
        """A command's answer."""
        request = {"execute": command, "arguments": arguments}
        self._socket.sendall(json.dumps(request).encode() + b"\n")
        while True:
            answer = self._read()
            if "error" in answer:
                raise AssertionError(f"{command}: {answer['error']}")
            if "return" in answer:
                return answer["return"]

    def _read(self) -> dict[str, Any]:
        line = self._lines.readline()
        if not line:
            raise AssertionError(f"QEMU ended: {self.said()}")
        answer: dict[str, Any] = json.loads(line)
        if "event" in answer:
            self.events.append(answer)
        return answer

    def said(self) -> str:
        """What QEMU printed."""
        self._log.flush()
        return Path(self._log.name).read_text(errors="replace")

    def close(self) -> None:
        """End QEMU. May be called more than once."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        with contextlib.suppress(BufferError):
            self._ram.close()
        self._lines.close()
        self._socket.close()
        self._log.close()

    @property
    def going(self) -> Mapping[str, Any]:
        """What of the statistics is saved and restored."""
        kept = ("launches", "at-launch", "pages", "flow", "accepts", "conversions", "violations")
        answer = self.statistics()
        return {name: answer[name] for name in kept}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _mailbox(self, vcpu: int) -> int:
        return MAILBOXES + MAILBOX_SIZE * vcpu

    def _ready(self, vcpu: int) -> bool:
        """Whether the vCPU has come to its loop: its page is shared, and it has said so."""
        at = self._mailbox(vcpu)
        return self._ram[at : at + 16] == struct.pack("<QQ", 0, 1)

    def _until(self, condition: Callable[[], bool]) -> None:
        end = time.monotonic() + DEADLINE_S
        pause = 0.0
        while not condition():
            self.execute("query-name")  # lets events come in
            for event in self.events:
                if event["event"] in ("CGS_TCG_VIOLATION", "CGS_TCG_FATAL"):
                    stopped = event["data"].get("action", "stop") == "stop"
                    self.events.remove(event)
                    if stopped:
                        raise GuestStoppedError(event)
                    break
            if self._process.poll() is not None or time.monotonic() > end:
                raise AssertionError(f"the guest does not come to an end: {self.said()}")
            time.sleep(pause)
            pause = min(0.01, pause + 0.0005)


StartTiny = Callable[..., TinyGuest]


def _memory_file(path: Path, size: int) -> mmap.mmap:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    try:
        os.truncate(descriptor, size)
        return mmap.mmap(descriptor, size)
    finally:
        os.close(descriptor)


# The image.


@functools.cache
def firmware(platform: str) -> bytes:
    """The firmware's image for a platform, assembled."""
    with tempfile.TemporaryDirectory() as directory:
        return _assembled(platform, Path(directory))


def _assembled(platform: str, directory: Path) -> bytes:
    made = directory / f"{platform}.o"
    flat = directory / f"{platform}.bin"
    subprocess.run(["gcc", "-c", f"-D{platform.upper()}", _SOURCE, "-o", made], check=True)
    flags = [f"-Ttext={IMAGE_AT:#x}", "--oformat=binary", "-e", "0"]
    subprocess.run(["ld", *flags, "-o", flat, made], check=True)
    image = bytearray(flat.read_bytes())
    assert len(image) == IMAGE_SIZE
    described = _tdx_metadata() if platform == "tdx" else _snp_metadata()
    at = IMAGE_SIZE - 0xC00
    image[at : at + len(described)] = described
    table = b"".join(_entry(guid, data) for guid, data in _entries(platform, IMAGE_SIZE - at))
    footer = uuid.UUID("96b582de-1fb2-45f7-baea-a366c55a082d").bytes_le
    table += struct.pack("<H", len(table) + 18) + footer
    image[IMAGE_SIZE - 32 - len(table) : IMAGE_SIZE - 32] = table
    return bytes(image)


def _entries(platform: str, offset: int) -> Iterator[tuple[str, bytes]]:
    metadata = {
        "tdx": "e47a6535-984a-4798-865e-4685a7bf8ec2",
        "snp": "dc886566-984a-4798-a75e-5585a7bf67cc",
    }
    yield metadata[platform], struct.pack("<I", offset)
    if platform == "snp":  # where SIPI starts a vCPU
        yield "00f771de-1a7e-4fcb-890e-68c77e2fb44e", struct.pack("<I", IMAGE_AT + 0xFFF0)


def _entry(guid: str, data: bytes) -> bytes:
    return data + struct.pack("<H", len(data) + 18) + uuid.UUID(guid).bytes_le


TDX_SECTIONS = (
    # offset and size in the image, address, size, type, attributes
    (0, IMAGE_SIZE, IMAGE_AT, IMAGE_SIZE, 0, 1),
    (0, 0, HOB_AT, HOB_SIZE, 2, 0),
)


def _tdx_metadata() -> bytes:
    sections = b"".join(struct.pack("<IIQQII", *section) for section in TDX_SECTIONS)
    return struct.pack("<4sIII", b"TDVF", 16 + len(sections), 1, len(TDX_SECTIONS)) + sections


def _snp_metadata() -> bytes:
    pages: Iterable[tuple[int, int, int]] = ((SECRETS_AT, PAGE, 2), (CPUID_AT, PAGE, 3))
    entries = b"".join(struct.pack("<III", *page) for page in pages)
    return struct.pack("<4sIII", b"ASEV", 16 + len(entries), 1, 2) + entries
