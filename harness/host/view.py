# SPDX-License-Identifier: MIT
"""The one window through which probes look at a host, live or recorded: a recording is a small JSON
file, made by `cvm-harness doctor --report`. Nothing here changes a host."""

from __future__ import annotations

import abc
import errno
import json
import os
import resource
import subprocess
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.base.guarded import ask
from harness.base.reader import read_json
from harness.base.status import HostError, UsageError
from harness.base.store import Store, digest_file, digest_of
from harness.host import accel, devices, ovmf
from harness.host.devices import Registers, SnpStatus
from harness.qemu.binary import Qemu, find_qemu

MAX_READ = 32 * 1024
"""Bytes read of one file: of /proc/cpuinfo the first processors are enough."""
_TOOL_DEADLINE_S = 10


class HostView(abc.ABC):
    """Questions about a host. All raise OSError where there is no answer."""

    def __init__(self) -> None:
        self.answers: dict[str, Any] = {}
        """What was asked so far: a recording."""

    @abc.abstractmethod
    def _look(self, kind: str, *words: str) -> Any:
        """The answer to one question, as JSON has it."""

    def answer(self, kind: str, *words: str) -> Any:
        """The same, kept."""
        question = " ".join((kind, *words))
        try:
            self.answers[question] = self._look(kind, *words)
        except OSError as error:
            code = errno.errorcode.get(error.errno or 0, "")
            self.answers[question] = {"error": code or str(error)}
            raise
        return self.answers[question]

    def read(self, path: str) -> str:
        """The beginning of a file, up to MAX_READ bytes."""
        return str(self.answer("read", path))

    def glob(self, pattern: str) -> list[str]:
        return list(map(str, self.answer("glob", pattern)))

    def open_read_write(self, path: str) -> None:
        """Whether this user can open a device for reading and writing."""
        self.answer("open", path)

    def kvm_capability(self, number: int) -> int:
        """KVM_CHECK_EXTENSION on /dev/kvm."""
        return int(self.answer("kvm", str(number)))

    def cpuid(self, leaf: int, subleaf: int = 0) -> Registers:
        """CPUID as an unprivileged program sees it."""
        values = self.answer("cpuid", hex(leaf), str(subleaf))
        return Registers(*(int(str(value), 0) for value in values))

    def snp_status(self) -> SnpStatus:
        """SNP_PLATFORM_STATUS on /dev/sev."""
        return SnpStatus(**self.answer("snp-status"))

    def number(self, name: str) -> int:
        """ "cpus" (usable by us), "memlock_bytes" (-1: no limit)."""
        return int(self.answer("number", name))

    def tool(self, *argv: str) -> str:
        """What a program ("qemu": the one that the harness uses) prints, stdout and stderr, for a
        question that changes nothing."""
        return str(self.answer("tool", *argv))

    def ovmf_table(self, path: str) -> dict[str, str]:
        """The GUIDed table of a firmware image: GUID -> its data in hex digits."""
        return {str(guid): str(data) for guid, data in self.answer("ovmf", path).items()}

    def ovmf_drivers_mention(self, path: str, guid: str) -> bool:
        """Whether the packed drivers of a firmware image hold a GUID."""
        return bool(self.answer("ovmf-drivers", path, guid))

    def kvm_guest(self) -> tuple[bool, str]:
        """Whether a probe guest under KVM got to run, and the evidence."""
        works, evidence = self.answer("kvm-guest")
        return bool(works), str(evidence)


class LiveHost(HostView):
    def __init__(self, kvm_patience_s: float = accel.DEADLINE_S) -> None:
        """`kvm_patience_s`: how long to wait for a probe guest that KVM may never let run."""
        super().__init__()
        self._kvm_patience_s = kvm_patience_s

    def _look(self, kind: str, *words: str) -> Any:
        if kind == "kvm-guest":
            probe = accel.probe_kvm(_qemu(), Store(), self._kvm_patience_s)
            return [probe.kvm_works, probe.evidence]
        if kind == "tool":
            known = self.answers.get(" ".join((kind, *words)))
            return known if isinstance(known, str) else _output(*words)
        return _ANSWERS[kind](*words)


def _read(path: str) -> str:
    with Path(path).open("rb") as file:
        return file.read(MAX_READ).decode("utf-8", "replace")


def _open(path: str) -> bool:
    os.close(os.open(path, os.O_RDWR | os.O_CLOEXEC))
    return True


def _cpuid(leaf: str, subleaf: str) -> list[str]:
    return list(map(hex, devices.cpuid(int(leaf, 0), int(subleaf))))


def _number(name: str) -> int:
    if name == "cpus":
        return len(os.sched_getaffinity(0))
    limit = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
    return -1 if limit == resource.RLIM_INFINITY else limit


def _output(program: str, *arguments: str) -> str:
    try:
        asked = _qemu().binary if program == "qemu" else program
        result = ask([asked, *arguments], _TOOL_DEADLINE_S)
    except subprocess.TimeoutExpired as late:
        raise OSError(errno.ETIMEDOUT, f"no answer in {_TOOL_DEADLINE_S} s") from late
    return result.stdout + result.stderr


def _ovmf_table(path: str) -> dict[str, str]:
    return {str(guid): data.hex() for guid, data in ovmf.read_table(Path(path)).items()}


def _ovmf_drivers_mention(path: str, guid: str) -> bool:
    # Unpacking takes most of a second, so that the answer is kept.
    def ask(directory: Path) -> None:
        known = ovmf.drivers_mention(Path(path).read_bytes(), uuid.UUID(guid))
        (directory / "answer").write_text(json.dumps(known))

    key = digest_of("ovmf-drivers-mention-1", digest_file(Path(path)), guid)
    known = json.loads((Store().fetch("firmware-facts", key, ask) / "answer").read_text())
    if known is None:
        raise OSError(errno.ENODATA, f"no drivers can be unpacked from {path}")
    return bool(known)


_ANSWERS: dict[str, Callable[..., Any]] = {
    "read": _read,
    "glob": lambda pattern: sorted(map(str, Path("/").glob(pattern.lstrip("/")))),
    "open": _open,
    "kvm": lambda number: devices.check_extension(int(number)),
    "cpuid": _cpuid,
    "snp-status": lambda: vars(devices.snp_platform_status()),
    "number": _number,
    "ovmf": _ovmf_table,
    "ovmf-drivers": _ovmf_drivers_mention,
}
"""What this machine says to each kind of question that needs nothing but its words."""


def _qemu() -> Qemu:
    try:
        return find_qemu()
    except HostError as error:
        raise OSError(errno.ENOENT, error.cause) from error


class RecordedHost(HostView):
    """A host as it was when it was recorded. What was not asked then is not there (ENOENT)."""

    def __init__(self, answers: dict[str, Any]) -> None:
        super().__init__()
        self._answers = answers

    @classmethod
    def load(cls, path: Path) -> RecordedHost:
        """A recording from a file. Raises UsageError where it is none."""
        try:
            return cls(read_json(path, dict[str, Any]))
        except UsageError as error:
            raise UsageError(f"{path} is not a recorded host: {error.cause}") from error

    def _look(self, kind: str, *words: str) -> Any:
        unasked: Any = [] if kind == "glob" else {"error": "ENOENT"}
        answer = self._answers.get(" ".join((kind, *words)), unasked)
        if isinstance(answer, dict) and "error" in answer:
            name = str(answer["error"])
            code = getattr(errno, name, None)
            raise OSError(code, os.strerror(code)) if code else OSError(name)
        return answer


def reason(error: OSError) -> str:
    """An OSError in a few words: "ENOENT, no such file or directory"."""
    if error.errno is None:
        return str(error)
    code = errno.errorcode.get(error.errno, str(error.errno))
    return f"{code}, {os.strerror(error.errno).lower()}"


def text(view: HostView, path: str) -> str | None:
    """A small file's text without the last newline, or None where it cannot be read."""
    try:
        return view.read(path).rstrip("\n")
    except OSError:
        return None
