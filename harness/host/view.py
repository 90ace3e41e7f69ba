# SPDX-License-Identifier: MIT
"""The one window through which probes look at a host: live, recorded, or live while recording.

Every probe is a function of a `HostView`, so a host that someone else has can be looked at here: a
recording is a small JSON file, made by `cvm-harness doctor --report`. Nothing here changes a host.
"""

from __future__ import annotations

import errno
import json
import os
import resource
import subprocess
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TypeVar

from harness.base.status import HostError, UsageError
from harness.base.store import Store, digest_file, digest_of
from harness.host import accel, kvm, ovmf, psp
from harness.host.cpuid import Registers, cpuid
from harness.qemu.binary import Qemu, find_qemu

MAX_READ = 32 * 1024
"""Bytes read of one file: of /proc/cpuinfo the first processors are enough."""
_TOOL_DEADLINE_S = 10

T = TypeVar("T")


class HostView(Protocol):
    """Questions about a host. All raise OSError where there is no answer."""

    def read(self, path: str) -> str:
        """The beginning of a file, up to MAX_READ bytes."""

    def glob(self, pattern: str) -> list[str]:
        """Paths that match, sorted."""

    def open_read_write(self, path: str) -> None:
        """Whether this user can open a device for reading and writing."""

    def kvm_capability(self, number: int) -> int:
        """KVM_CHECK_EXTENSION on /dev/kvm."""

    def cpuid(self, leaf: int, subleaf: int = 0) -> Registers:
        """CPUID as an unprivileged program sees it."""

    def snp_status(self) -> psp.SnpStatus:
        """SNP_PLATFORM_STATUS on /dev/sev."""

    def number(self, name: str) -> int:
        """ "uid", "cpus" (usable by us), "memlock_bytes" (-1: no limit)."""

    def tool(self, *argv: str) -> str:
        """What a program prints (stdout and stderr) for a question that changes nothing.

        "qemu" stands for the QEMU that the harness uses.
        """

    def ovmf_table(self, path: str) -> dict[str, str]:
        """The GUIDed table of a firmware image: GUID -> its data in hex digits."""

    def ovmf_drivers_mention(self, path: str, guid: str) -> bool:
        """Whether the packed drivers of a firmware image hold a GUID."""

    def kvm_guest(self) -> tuple[bool, str]:
        """Whether a probe guest under KVM got to run, and the evidence."""


class LiveHost:
    """This machine."""

    def __init__(self, kvm_patience_s: float = accel.DEADLINE_S) -> None:
        """`kvm_patience_s`: how long to wait for a probe guest that KVM may never let run."""
        self._kvm_patience_s = kvm_patience_s
        self._said: dict[tuple[str, ...], str] = {}

    def read(self, path: str) -> str:
        with Path(path).open("rb") as file:
            return file.read(MAX_READ).decode("utf-8", "replace")

    def glob(self, pattern: str) -> list[str]:
        return sorted(map(str, Path("/").glob(pattern.lstrip("/"))))

    def open_read_write(self, path: str) -> None:
        os.close(os.open(path, os.O_RDWR | os.O_CLOEXEC))

    def kvm_capability(self, number: int) -> int:
        return kvm.check_extension(number)

    def cpuid(self, leaf: int, subleaf: int = 0) -> Registers:
        return cpuid(leaf, subleaf)

    def snp_status(self) -> psp.SnpStatus:
        return psp.snp_platform_status()

    def number(self, name: str) -> int:
        match name:
            case "uid":
                return os.getuid()
            case "cpus":
                return len(os.sched_getaffinity(0))
            case "memlock_bytes":
                limit = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
                return -1 if limit == resource.RLIM_INFINITY else limit
        raise OSError(errno.EINVAL, f"no such number: {name}")

    def tool(self, *argv: str) -> str:
        if argv not in self._said:
            self._said[argv] = self._run(*argv)
        return self._said[argv]

    def _run(self, program: str, *arguments: str) -> str:
        if program == "qemu":
            program = str(_qemu().binary)
        try:
            result = subprocess.run(
                [program, *arguments],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=_TOOL_DEADLINE_S,
                check=False,
            )
        except subprocess.TimeoutExpired as late:
            raise OSError(errno.ETIMEDOUT, f"no answer in {_TOOL_DEADLINE_S} s") from late
        return result.stdout + result.stderr

    def ovmf_table(self, path: str) -> dict[str, str]:
        table = ovmf.read_table(Path(path))
        return {str(guid): data.hex() for guid, data in table.items()}

    def ovmf_drivers_mention(self, path: str, guid: str) -> bool:
        # Unpacking takes most of a second, so that the answer is kept.
        answer = "answer"

        def ask(directory: Path) -> None:
            known = ovmf.drivers_mention(Path(path).read_bytes(), uuid.UUID(guid))
            (directory / answer).write_text(json.dumps(known))

        key = digest_of("ovmf-drivers-mention-1", digest_file(Path(path)), guid)
        known = json.loads((Store().fetch("firmware-facts", key, ask) / answer).read_text())
        if known is None:
            raise OSError(errno.ENODATA, f"no drivers can be unpacked from {path}")
        return bool(known)

    def kvm_guest(self) -> tuple[bool, str]:
        probe = accel.probe_kvm(_qemu(), Store(), self._kvm_patience_s)
        return probe.kvm_works, probe.evidence


def _qemu() -> Qemu:
    try:
        return find_qemu()
    except HostError as error:
        raise OSError(errno.ENOENT, error.cause) from error


class RecordingHost:
    """Passes questions on to another view and keeps every answer."""

    def __init__(self, view: HostView) -> None:
        self._view = view
        self.answers: dict[str, Any] = {}

    def _keep(self, question: str, ask: Callable[[], T], plain: Callable[[T], object]) -> T:
        try:
            answer = ask()
        except OSError as error:
            code = errno.errorcode.get(error.errno or 0, "")
            self.answers[question] = {"error": code or str(error)}
            raise
        self.answers[question] = plain(answer)
        return answer

    def read(self, path: str) -> str:
        return self._keep(f"read {path}", lambda: self._view.read(path), str)

    def glob(self, pattern: str) -> list[str]:
        return self._keep(f"glob {pattern}", lambda: self._view.glob(pattern), list)

    def open_read_write(self, path: str) -> None:
        self._keep(f"open {path}", lambda: self._view.open_read_write(path), lambda _: True)

    def kvm_capability(self, number: int) -> int:
        return self._keep(f"kvm {number}", lambda: self._view.kvm_capability(number), int)

    def cpuid(self, leaf: int, subleaf: int = 0) -> Registers:
        return self._keep(
            f"cpuid {leaf:#x} {subleaf}",
            lambda: self._view.cpuid(leaf, subleaf),
            lambda r: [f"{value:#x}" for value in (r.eax, r.ebx, r.ecx, r.edx)],
        )

    def snp_status(self) -> psp.SnpStatus:
        return self._keep("snp-status", self._view.snp_status, lambda status: vars(status))

    def number(self, name: str) -> int:
        return self._keep(f"number {name}", lambda: self._view.number(name), int)

    def tool(self, *argv: str) -> str:
        return self._keep(f"tool {' '.join(argv)}", lambda: self._view.tool(*argv), str)

    def ovmf_table(self, path: str) -> dict[str, str]:
        return self._keep(f"ovmf {path}", lambda: self._view.ovmf_table(path), dict)

    def ovmf_drivers_mention(self, path: str, guid: str) -> bool:
        question = f"ovmf-drivers {path} {guid}"
        return self._keep(question, lambda: self._view.ovmf_drivers_mention(path, guid), bool)

    def kvm_guest(self) -> tuple[bool, str]:
        return self._keep("kvm-guest", self._view.kvm_guest, list)


class RecordedHost:
    """A host as it was when it was recorded. What was not asked then is not there (ENOENT)."""

    def __init__(self, answers: dict[str, Any]) -> None:
        self._answers = answers

    @classmethod
    def load(cls, path: Path) -> RecordedHost:
        """A recording from a file. Raises UsageError where it is none."""
        try:
            data = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise UsageError(f"{path} is not a recorded host: {error}") from error
        if not isinstance(data, dict):
            raise UsageError(f"{path} is not a recorded host: it holds no object")
        return cls(data)

    def _find(self, question: str) -> Any:
        answer = self._answers.get(question, {"error": "ENOENT"})
        if isinstance(answer, dict) and "error" in answer:
            name = str(answer["error"])
            code = getattr(errno, name, None)
            raise OSError(code, os.strerror(code)) if code else OSError(name)
        return answer

    def read(self, path: str) -> str:
        return str(self._find(f"read {path}"))

    def glob(self, pattern: str) -> list[str]:
        return [str(path) for path in self._answers.get(f"glob {pattern}", [])]

    def open_read_write(self, path: str) -> None:
        self._find(f"open {path}")

    def kvm_capability(self, number: int) -> int:
        return int(self._find(f"kvm {number}"))

    def cpuid(self, leaf: int, subleaf: int = 0) -> Registers:
        values = [int(str(value), 0) for value in self._find(f"cpuid {leaf:#x} {subleaf}")]
        return Registers(*values)

    def snp_status(self) -> psp.SnpStatus:
        return psp.SnpStatus(**self._find("snp-status"))

    def number(self, name: str) -> int:
        return int(self._find(f"number {name}"))

    def tool(self, *argv: str) -> str:
        return str(self._find(f"tool {' '.join(argv)}"))

    def ovmf_table(self, path: str) -> dict[str, str]:
        return {str(guid): str(data) for guid, data in self._find(f"ovmf {path}").items()}

    def ovmf_drivers_mention(self, path: str, guid: str) -> bool:
        return bool(self._find(f"ovmf-drivers {path} {guid}"))

    def kvm_guest(self) -> tuple[bool, str]:
        works, evidence = self._find("kvm-guest")
        return bool(works), str(evidence)


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
